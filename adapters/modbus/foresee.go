package modbus

import (
	"fmt"
	"math"
	"slices"
	"time"
)

// periodsMax is how many periods of one device are foreseen exactly, with every way they meet; with
// more of them each is taken to come alone, which foresees too much rather than too little.
const periodsMax = 8

// Request is one read request of a poll cycle.
type Request struct {
	Block // its Points are positions in Device.Points
	// InVain is how many of its registers (or bits) belong to no point.
	InVain int
	// Apart says why it is not part of the request before it; "" for the first of its table.
	Apart string
	// Airtime is how long the line is busy with it and its answer, the silences included and the
	// device's own time not; 0 if the link is no serial port (MB-21).
	Airtime time.Duration
}

// PollCycle is what a device is asked for at a tick, by the periods that meet there.
type PollCycle struct {
	Periods   []time.Duration // ascending; 0 is poll: startup
	PerSecond float64         // how often exactly these meet, on average; 0: once, after the start
	Requests  []Request
}

// Every is the shortest of the cycle's periods: the time that it has. 0 for a device without one.
func (c PollCycle) Every() time.Duration {
	for _, p := range c.Periods {
		if p > 0 {
			return p
		}
	}
	return 0
}

// Airtime is that of its requests.
func (c PollCycle) Airtime() (sum time.Duration) {
	for _, r := range c.Requests {
		sum += r.Airtime
	}
	return sum
}

// Foresee is what a device of the link will be asked for: its poll cycles in ascending order of their
// periods, and the one after the start, which reads everything, first if the device has points of
// poll: startup. What it will refuse cannot be foreseen.
func Foresee(c Config, d Device) (cycles []PollCycle) {
	var periods []time.Duration
	for _, p := range d.Points {
		periods = append(periods, p.Poll)
	}
	slices.Sort(periods)
	periods = slices.Compact(periods)
	if len(periods) > 0 && periods[0] == 0 {
		cycles = append(cycles, foreseeCycle(c, d, periods, 0))
		periods = periods[1:]
	}
	if len(periods) > periodsMax {
		for _, p := range periods {
			cycles = append(cycles, foreseeCycle(c, d, []time.Duration{p}, 1/p.Seconds()))
		}
		return cycles
	}
	for _, m := range meetings(periods) {
		cycles = append(cycles, foreseeCycle(c, d, m.periods, m.perSecond))
	}
	return cycles
}

// Load is the part of its time that a serial line is busy when every device answers at once, 1 being
// all of it. It is 0 if the link is no serial port.
func Load(c Config) (load float64) {
	for _, d := range c.Devices {
		for _, cycle := range Foresee(c, d) {
			load += cycle.PerSecond * cycle.Airtime().Seconds()
		}
	}
	return load
}

func foreseeCycle(c Config, d Device, periods []time.Duration, perSecond float64) PollCycle {
	var points []int
	for i, p := range d.Points {
		if slices.Contains(periods, p.Poll) {
			points = append(points, i)
		}
	}
	cycle := PollCycle{Periods: periods, PerSecond: perSecond}
	for n, b := range planSome(d, points, nil) {
		r := Request{Block: b, InVain: inVain(d.Points, b), Airtime: c.Airtime(b)}
		if n > 0 {
			r.Apart = apart(d, cycle.Requests[n-1].Block, b)
		}
		cycle.Requests = append(cycle.Requests, r)
	}
	return cycle
}

// Airtime is how long a serial line is busy with a read request and its answer: the characters, the
// silence before the request, and in RTU that before the answer (MB-21).
func (c Config) Airtime(b Block) time.Duration {
	if c.Serial == nil {
		return 0
	}
	size := 2 * b.Quantity
	if b.Table.Bits() {
		size = (b.Quantity + 7) / 8
	}
	busy := c.LineTime(5, 2+size) + max(c.Serial.Silence(), silenceMin, c.Pause)
	if c.Framing == RTU {
		busy += c.Serial.Silence()
	}
	return busy
}

// inVain counts the registers of a block that belong to none of its points.
func inVain(points []Point, b Block) int {
	n, asked := b.Quantity, make([]bool, b.Quantity)
	ask := func(at int) {
		if at -= int(b.Start); !asked[at] {
			asked[at] = true
			n--
		}
	}
	for _, i := range b.Points {
		p := points[i]
		for r := range p.Registers() {
			ask(int(p.Address) + r)
		}
		if p.Factor != nil {
			ask(int(*p.Factor))
		}
	}
	return n
}

// apart says why a plan did not join two neighbouring blocks; "" if they are of different tables.
func apart(d Device, a, b Block) string {
	if a.Table != b.Table {
		return ""
	}
	noun := "registers"
	if a.Table.Bits() {
		noun = "bits"
	}
	_, end := reach(d.Points, a.Points)
	start, _ := span(d.Points[b.Points[0]])
	if between := start - end; between > d.Gap {
		return fmt.Sprintf("%d %s between them, the gap is %d", between, noun, d.Gap)
	}
	joined := enclose(d, d.Points, append(slices.Clip(a.Points), b.Points[0]))
	return fmt.Sprintf("%d %s together, a request reads %d at most", joined.Quantity, noun, limit(d, a.Table))
}

// meeting is periods that are due at the same ticks, and no other.
type meeting struct {
	periods   []time.Duration
	perSecond float64
}

// meetings lists which of the periods meet alone, and how often: the groups of a device share a phase.
// Exactly a set meets as often as its members do, less what larger sets take of that.
func meetings(periods []time.Duration) (list []meeting) {
	sets := 1 << len(periods)
	often := make([]float64, sets)
	for set := range sets {
		often[set] = 1 / multiple(members(periods, set))
	}
	for set := 1; set < sets; set++ {
		perSecond := 0.0
		for larger := set; larger < sets; larger++ {
			if larger&set != set {
				continue
			}
			sign := 1.0
			for extra := larger &^ set; extra > 0; extra &= extra - 1 {
				sign = -sign
			}
			perSecond += sign * often[larger]
		}
		if perSecond > 1e-9*often[set] {
			list = append(list, meeting{members(periods, set), perSecond})
		}
	}
	slices.SortFunc(list, func(a, b meeting) int {
		return slices.Compare(a.periods, b.periods)
	})
	return list
}

// members are the periods whose bits are set.
func members(periods []time.Duration, set int) (some []time.Duration) {
	for i, p := range periods {
		if set>>i&1 != 0 {
			some = append(some, p)
		}
	}
	return some
}

// multiple is the least common multiple of periods in seconds; infinite if it is beyond all times.
func multiple(periods []time.Duration) float64 {
	all := time.Duration(1)
	for _, p := range periods {
		a, b := all, p
		for b > 0 {
			a, b = b, a%b
		}
		if p/a > math.MaxInt64/all {
			return math.Inf(1)
		}
		all *= p / a
	}
	return all.Seconds()
}
