package modbus

import (
	"slices"
	"time"

	gateway "iothub-gateway"
)

// State is what is known about a device.
type State uint8

// The states of a device.
const (
	Unknown State = iota // not answered yet, nor failed often enough
	Up                   // answered last time
	Down                 // counts as offline (MB-83)
)

// String is unknown, up or down.
func (s State) String() string {
	switch s {
	case Up:
		return "up"
	case Down:
		return "down"
	}
	return "unknown"
}

// Stats is a snapshot of what a link has done since Run began.
type Stats struct {
	Link    LinkStats
	Devices []DeviceStats // in the order of the Config
	// Replaced counts readings that a newer one of the same point replaced while accept was busy.
	Replaced uint64
	// Lost counts readings that accept had not taken when Run ended.
	Lost uint64
	// Refused counts readings that a full queue refused; the next poll of their points reports again.
	Refused uint64
}

// LinkStats is the connection's part of Stats.
type LinkStats struct {
	Name, Address string
	Up            bool
	Since         time.Time // of Up, or of its contrary; zero before the first connection
	LastError     string    // why it is down, or was the last time
	Connects      uint64
	Connections   int // that are open now
	Requests      uint64
	Timeouts      uint64 // requests without an answer
	StaleFrames   uint64 // answers that came too late or twice, or of somebody else, dropped
	Noise         uint64 // bytes that came instead of an answer that was missed
	Violations    uint64 // answers that were none; each ended the connection
	// Busy is the time that requests and answers took, waiting for devices included, with the silence or pause
	// before each; of several connections it is the mean.
	Busy time.Duration
}

// open notes a new connection.
func (s *LinkStats) open(at time.Time) {
	if s.Connects++; s.Connections == 0 {
		s.Up, s.Since = true, at
	}
	s.Connections++
}

// close notes the end of a connection.
func (s *LinkStats) close(at time.Time, why error) {
	s.LastError = why.Error()
	if s.Connections--; s.Connections == 0 {
		s.Up, s.Since = false, at
	}
}

// DeviceStats is one device's part of Stats.
type DeviceStats struct {
	Name        string
	Unit        uint8
	State       State
	LastGood    time.Time // of the last answer; zero if there was none
	LastError   string
	Polls       uint64        // poll cycles
	Skipped     uint64        // ticks without a cycle: the wire was busy, or the link was down (MB-52)
	StaleFrames uint64        // of its unit
	Exceptions  uint64        // answers that were exceptions
	TimeLost    time.Duration // spent waiting for answers that did not come (MB-85)
	// Refused are the points that the device refuses to read; they are tried again after 15 s, later less often.
	Refused []gateway.PointID
	// Holes are the places between points that the device was found to refuse; requests end there (MB-46).
	Holes []Block
}

// Stats is a snapshot; safe to call at any time.
func (a *Adapter) Stats() Stats {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := a.stats
	s.Devices = slices.Clone(s.Devices)
	for i := range s.Devices {
		s.Devices[i].Refused, s.Devices[i].Holes = slices.Clone(s.Devices[i].Refused), slices.Clone(s.Devices[i].Holes)
	}
	s.Replaced, s.Lost, s.Refused = a.out.counts()
	return s
}

// note changes the statistics.
func (a *Adapter) note(change func(*Stats)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	change(&a.stats)
}

// noteStale counts a dropped frame for the devices of its unit.
func (a *Adapter) noteStale(unit uint8) {
	a.note(func(s *Stats) {
		s.Link.StaleFrames++
		for i := range s.Devices {
			if s.Devices[i].Unit == unit {
				s.Devices[i].StaleFrames++
			}
		}
	})
}
