package buffer

import (
	"encoding/binary"
	"hash/crc32"
	"maps"
	"os"
	"time"

	"golang.org/x/sys/unix"

	gateway "iothub-gateway"
)

// The time of a gateway without a battery is wrong until the network has told it. What is put before
// then is stamped with the time since the machine's boot as well; once the clock is good, the
// difference of the two is stored, and what has not been sent yet is delivered with corrected times.
// What had been sent keeps its stamp, because a repeat has the same bytes.

const (
	propertyClock  = "gateway-clock"
	corrected      = "corrected"
	unsynchronised = "unsynchronised"
	// maxBoots is how many boots are remembered.
	maxBoots = 16
	// closeTo is how far the time of acceptance may be from that of creation without being noted.
	closeTo = 5 * time.Second
)

// boot tells which boot of the machine this is, and how long ago it was.
type boot struct {
	id    uint32
	since func() time.Duration
}

func thisBoot() boot {
	id, _ := os.ReadFile("/proc/sys/kernel/random/boot_id") // without it all boots are one
	return boot{crc32.ChecksumIEEE(id), func() time.Duration {
		var now unix.Timespec
		if unix.ClockGettime(unix.CLOCK_BOOTTIME, &now) != nil {
			return 0
		}
		return time.Duration(now.Nano())
	}}
}

// correction is what is known of the times of a boot's entries.
type correction struct {
	epoch  uint32
	known  bool              // the clock became good in that boot
	zero   time.Time         // when the boot was
	handed map[uint32]uint64 // lane sequences, by identity number, that keep their stamp
}

// clocks are the corrections by boot; never changed, but replaced.
type clocks map[uint32]correction

// at is when an entry was created, and whether that is known.
func (c clocks) at(s stamps) (time.Time, bool) {
	k := c[s.boot]
	return k.zero.Add(s.sinceBoot).UTC(), k.known
}

// stamp sets the time of an entry that was created by a clock that was not good, and says so.
func (c clocks) stamp(e *Entry, number uint32, s stamps) {
	word := unsynchronised
	if at, ok := c.at(s); ok && e.Seq > c[s.boot].handed[number] {
		word, e.Telemetry.Created = corrected, at
	}
	all := make([]gateway.Property, 0, len(e.Telemetry.Properties)+1)
	all = append(all, e.Telemetry.Properties...)
	e.Telemetry.Properties = append(all, gateway.Property{Name: propertyClock, Value: word})
}

// value stores the correction.
func (k correction) value(boot uint32) value {
	content := binary.BigEndian.AppendUint32(nil, k.epoch)
	if k.known {
		content = binary.BigEndian.AppendUint64(content, uint64(k.zero.UnixNano()))
		for number, seq := range k.handed {
			content = binary.BigEndian.AppendUint32(content, number)
			content = binary.BigEndian.AppendUint64(content, seq)
		}
	}
	return value{bucketClock, numberKey(boot), content}
}

// parseCorrection reads what value stores.
func parseCorrection(content []byte) (k correction, ok bool) {
	if len(content) < 4 || len(content) > 4 && len(content)%12 != 0 {
		return correction{}, false
	}
	k.epoch = binary.BigEndian.Uint32(content)
	if len(content) == 4 {
		return k, true
	}
	k.known, k.zero = true, time.Unix(0, int64(binary.BigEndian.Uint64(content[4:]))).UTC()
	k.handed = map[uint32]uint64{}
	for rest := content[12:]; len(rest) > 0; rest = rest[12:] {
		k.handed[binary.BigEndian.Uint32(rest)] = binary.BigEndian.Uint64(rest[4:])
	}
	return k, true
}

// clock is the time, and whether it is to be believed.
func (q *Queue) clock() (time.Time, bool) {
	if q.cfg.Clock == nil {
		return time.Now(), true
	}
	return q.cfg.Clock()
}

// stamps is what the record of an entry created then says about times.
func (q *Queue) stamps(created time.Time) stamps {
	now, good := q.clock()
	late := now.Sub(created)
	if good && (late > closeTo || late < -closeTo) {
		return stamps{accepted: now}
	}
	if good {
		return stamps{}
	}
	since := q.boot.since()
	if late < -closeTo || late > since {
		return stamps{unknown: true} // another clock says when it was created: the device's own
	}
	return stamps{unsynchronised: true, boot: q.boot.id, sinceBoot: since - late}
}

// noteBoot notes, with the first of them, that there are entries of this boot to be corrected.
func (q *Queue) noteBoot(w *work) {
	if _, noted := q.clocks.Load().of(q.boot.id); noted {
		return
	}
	for i := range w.puts {
		r := w.puts[i].record
		if r[atFlags]&flagUnsynchronised != 0 {
			w.clocks = q.withBoot(correction{epoch: q.committer.epoch})
			w.values = append(w.values, w.clocks[q.boot.id].value(q.boot.id))
			return
		}
	}
}

func (c *clocks) of(boot uint32) (correction, bool) {
	if c == nil {
		return correction{}, false
	}
	k, ok := (*c)[boot]
	return k, ok
}

// withBoot is the corrections with k for this boot.
func (q *Queue) withBoot(k correction) clocks {
	c := clocks{}
	if old := q.clocks.Load(); old != nil {
		maps.Copy(c, *old)
	}
	c[q.boot.id] = k
	return c
}

// correction is the one of this boot, if it is due: what handed says has been sent keeps its stamp.
func (q *Queue) correction(handed func(*Lane) uint64) (clocks, bool) {
	noted, ok := q.clocks.Load().of(q.boot.id)
	now, good := q.clock()
	if !ok || noted.known || !good {
		return nil, false
	}
	k := correction{epoch: q.committer.epoch, known: true, zero: now.Add(-q.boot.since()), handed: map[uint32]uint64{}}
	for number, l := range q.committer.byNumber {
		if seq := handed(l); seq > l.gone { // only this goroutine changes gone
			k.handed[number] = seq
		}
	}
	return q.withBoot(k), true
}

// correct stores the correction of this boot once the clock is good. Nothing is handed out meanwhile.
func (q *Queue) correct() error {
	w := q.newWork()
	c, due := q.correction(func(l *Lane) uint64 {
		w.of(l)
		return l.freeze()
	})
	if !due {
		return nil
	}
	w.clocks = c
	w.values = append(w.values, c[q.boot.id].value(q.boot.id))
	q.seal(w)
	return q.execute(w)
}

// loadClocks takes the stored corrections over, the newest ones, and empties the others.
func (q *Queue) loadClocks(other map[string]value) {
	c := clocks{}
	for _, v := range other {
		if k, ok := parseCorrection(v.content); ok && v.bucket == bucketClock && len(v.key) == 4 {
			c[binary.BigEndian.Uint32(v.key)] = k
			if len(c) > maxBoots {
				oldest := binary.BigEndian.Uint32(v.key)
				for boot, k := range c {
					if k.epoch < c[oldest].epoch {
						oldest = boot
					}
				}
				delete(c, oldest)
				key := numberKey(oldest)
				other[bucketClock+string(key)] = value{bucketClock, key, nil} // opening removes it from the file
			}
		}
	}
	q.clocks.Store(&c)
}
