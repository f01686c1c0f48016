package buffer

import (
	"strconv"
	"time"

	gateway "iothub-gateway"
)

// WhenFull says what happens to a Put that would exceed a limit.
type WhenFull uint8

const (
	// DropOldest drops the oldest entries that are not in flight; a gap entry in their place says so.
	DropOldest WhenFull = iota
	// RefuseNew stores nothing of the identities that have no room; Put names them.
	RefuseNew
)

// Batch says how entries of one lane share a message. The zero value: they do not.
type Batch struct {
	// MaxBytes is how large the body of a pack may get, unless a single entry is larger; 0: no packs.
	MaxBytes int
	// MaxWait is how long the oldest entry of a pack waits for others before the pack is cut.
	MaxWait time.Duration
}

// MaxInFlight is how many messages of a lane may be sent and not known on disk to be acknowledged: after
// a restart the queue takes it that so many may have been sent before, and neither drops nor changes
// them. Half of it is for acknowledgements that wait for their commit, the other half for what a reader
// may have in flight.
const MaxInFlight = 512

// Entry is one message of a lane: an entry that was put, a pack of several, or a gap.
type Entry struct {
	// Queue is the id of the queue that numbered the entry.
	Queue string
	// First and Seq are the first and the last sequence that the message stands for. A lane's
	// sequences count what was put: 1, 2, 3... since the birth of the queue.
	First, Seq uint64
	// Telemetry is what to send, Created in UTC. Body and Properties may be shared: do not change them.
	Telemetry gateway.Telemetry
	// Packed is how many entries a pack holds; 0 for what is not a pack.
	Packed int
	// Gap is set if the message says what was dropped.
	Gap *Gap
}

// ID names the message for ever, and a repeat of it: "queue-sequence", or "queue-first-last" for a
// pack or a gap, even of one.
func (e *Entry) ID() string {
	b := make([]byte, 0, len(e.Queue)+42)
	b = append(append(b, e.Queue...), '-')
	if e.Packed > 0 || e.Gap != nil {
		b = append(strconv.AppendUint(b, e.First, 10), '-')
	}
	return string(strconv.AppendUint(b, e.Seq, 10))
}

// Health is how the queue does, in words for people.
type Health struct {
	// State is "working", "full" (a limit refuses or drops entries), "degraded" (it works, but a file
	// was set aside) or "unavailable" (nothing can be stored).
	State string
	// Since is when State began.
	Since time.Time
	// Reason is one sentence with the remedy; "" while it is working.
	Reason string
	// Aside are the files that were set aside and are not read.
	Aside []string
}

// DeadLetter is an entry that the hub never takes.
type DeadLetter struct {
	// ID is the message id.
	ID string
	// Telemetry is what was put.
	Telemetry gateway.Telemetry
	// Reason is why the hub did not take it, Time when that was clear.
	Reason string
	Time   time.Time
}
