package mapping

import (
	"strings"
	"time"

	yaml "go.yaml.in/yaml/v4"
)

// Buffer is what the queue may take and how it is drained.
type Buffer struct {
	// MaxBytes is what all waiting messages together may take, LaneMaxBytes those of one identity
	// (0: no limit of its own), in bytes of the queue.
	MaxBytes, LaneMaxBytes int64
	// MaxAge is how long a message may wait.
	MaxAge time.Duration
	// RefuseNew: a full queue refuses new messages instead of dropping the oldest.
	RefuseNew bool
	// Batch packs what waits of one identity into messages; nil: each travels alone.
	Batch *Batch
	// DrainRate is how many messages a second are sent over all identities; 0: as many as the hub takes.
	DrainRate float64
	// LiveShare is the part of DrainRate, 0 to 1, that belongs to identities without a backlog.
	LiveShare float64
}

// Batch says how large a pack grows and how long a message may wait for others to join it.
type Batch struct {
	MaxBytes int
	MaxWait  time.Duration
}

// What the queue may be asked for. The largest message has to fit into a lane and into the hub (D2C-15).
const (
	leastQueue, mostQueue = 1 << 20, 1 << 40
	leastPack, mostPack   = 4 << 10, 240 << 10
	leastAge              = time.Minute
	longestPackWait       = time.Hour
	fastestDrain          = 100_000 // messages a second
	timeField             = "time"  // the first field of each reading in a pack
)

// builtInBuffer is what holds where the file says nothing.
func builtInBuffer() Buffer {
	return Buffer{MaxBytes: 2 << 30, MaxAge: 7 * 24 * time.Hour, LiveShare: 0.5}
}

func (d *draft) readBuffer(n node) {
	s := n.section(inBuffer)
	b := &d.buffer
	if n, ok := s.get("max_size"); ok {
		if size, ok := n.size(leastQueue, mostQueue); ok {
			b.MaxBytes = size
		}
	}
	if n, ok := s.get("lane_max_size"); ok {
		size, ok := n.size(leastQueue, mostQueue)
		if ok && size > b.MaxBytes {
			n.complain("E190", "lane_max_size %s of one identity is more than max_size %s of all together; make it smaller", n.yaml.Value, shortSize(b.MaxBytes))
		}
		b.LaneMaxBytes = size
	}
	if n, ok := s.get("max_age"); ok {
		b.MaxAge, _ = n.duration(leastAge, longest)
	}
	if n, ok := s.get("when_full"); ok {
		word, _ := n.word("drop-oldest", "refuse-new")
		b.RefuseNew = word == "refuse-new"
	}
	if n, ok := s.get("batch"); ok {
		b.Batch = n.batch()
	}
	s.readDrain(b)
}

// readDrain reads how fast a backlog leaves.
func (s section) readDrain(b *Buffer) {
	if n, ok := s.get("drain_rate"); ok {
		rate, ok := n.number()
		if ok && (rate <= 0 || rate > fastestDrain) {
			n.complain("E009", "drain_rate: %s is not possible; write how many messages a second are sent, above 0 and up to %d", quote(n.yaml.Value), fastestDrain)
		}
		b.DrainRate = rate
	}
	n, ok := s.get("live_share")
	if !ok {
		return
	}
	if !s.has("drain_rate") && !s.misspelt["drain_rate"] {
		n.refuse("E191", "live_share divides drain_rate, which is not given; add drain_rate: MESSAGES a second, or drop live_share")
	}
	text, ok := n.text()
	if !ok || n.zeroes(text) {
		return
	}
	digits, percent := strings.CutSuffix(text, "%")
	share, whole := parseWhole(digits)
	if !percent || !whole || share < 0 || share > 100 {
		n.complain("E009", "live_share: %s is not possible; write a percentage from 0%% to 100%%, such as 50%%", quote(text))
		return
	}
	b.LiveShare = float64(share) / 100
}

// checkTime wants no field that a pack's own would hide.
func (d *draft) checkTime(p *point) {
	if p.north.Field != timeField || d.buffer.Batch == nil {
		return
	}
	at := p.key
	if name, ok := p.get("name"); ok {
		at = name.at
	}
	d.found(at, "E192", "the field %s is what batch adds to each reading; give the point another name: NAME, or switch batch off", quote(timeField))
}

// batch is off, or a map.
func (n node) batch() *Batch {
	if n.yaml.Kind != yaml.MappingNode {
		if text, ok := n.text(); ok && text != "off" {
			n.complain("E009", "batch: %s is not known; write off, or { max_size: 64KiB, max_wait: 1s }", quote(text))
		}
		return nil
	}
	b := &Batch{MaxBytes: 64 << 10, MaxWait: time.Second}
	s := n.section(inBatch)
	if n, ok := s.get("max_size"); ok {
		size, _ := n.size(leastPack, mostPack)
		b.MaxBytes = int(size)
	}
	if n, ok := s.get("max_wait"); ok {
		b.MaxWait, _ = n.duration(0, longestPackWait)
	}
	return b
}
