package modbus

import (
	"time"

	goburrow "github.com/goburrow/modbus"
)

const (
	// patienceMax is the longest time that a unit which answers late is waited for (MB-25).
	patienceMax = 10 * time.Second
	// promptEnough is how many answers in a row within the link's timeout make a unit prompt again.
	promptEnough = 100
)

// unit is one unit of the link: its client, and what is known about it (MB-5). Devices that share a
// unit share it. It belongs to the wire.
type unit struct {
	client goburrow.Client
	noFC5  bool // wants FC 15 even for one coil
	noFC6  bool // wants FC 16 even for one register
	noMask bool // has no FC 22

	served time.Time // when it was last asked
	// free is when it may be asked again: until then an answer to the last request may still come, and
	// where answers carry no id it would be taken for that to the next (MB-25).
	free     time.Time
	timeout  time.Duration // the link's
	patience time.Duration // how long it is waited for; more than timeout if it was late
	prompt   int           // answers in a row within timeout, while patience is longer

	silent bool   // the last request was not answered
	owed   bool   // and its answer has not come late either
	misses int    // poll cycles without any answer
	why    *fault // of the last of them; nil once it answered
}

// newUnit makes the client of a unit over the link.
func newUnit(id uint8, l *link) *unit {
	return &unit{
		client:  goburrow.NewClient2(l.framing.packager(id), l),
		timeout: l.cfg.Timeout, patience: l.cfg.Timeout,
	}
}

// answered notes that the unit answered a request within took.
func (u *unit) answered(took time.Duration) {
	u.silent, u.owed, u.why = false, false, nil
	switch {
	case u.patience == u.timeout:
	case took > u.timeout:
		u.prompt = 0
	default:
		if u.prompt++; u.prompt >= promptEnough {
			u.patience, u.prompt = u.timeout, 0
		}
	}
}

// missed notes a request without an answer. Where answers carry no id the unit is left alone for as long
// again as it was waited for: what comes then is late and dropped (MB-25).
func (u *unit) missed(now time.Time, quarantine bool) {
	u.silent, u.owed, u.prompt = true, true, 0
	if quarantine {
		u.free = now.Add(u.patience)
	}
}

// late notes that an answer of the unit came after its time: from now on it is waited for longer. It is
// false if that changes nothing.
func (u *unit) late() bool {
	if !u.owed || u.patience >= patienceMax {
		return false
	}
	u.patience, u.owed = min(2*u.patience, patienceMax), false
	return true
}
