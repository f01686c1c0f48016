package modbus

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	gateway "iothub-gateway"
)

// plansMax bounds the plans that are kept: periods that never meet twice in the same way would make
// ever more of them.
const plansMax = 256

// factorMax is the greatest amount of a scale factor (MB-41); what is beyond means that there is none.
const factorMax = 10

// device is a Device at run time.
type device struct {
	// never changed after New
	Device
	index   int // in Config.Devices
	address string
	codecs  []codec // of Points
	unit    *unit
	wire    *wire

	// owned by the wire
	groups  []*group
	state   State
	fails   int           // poll cycles in a row without an answer
	missed  []int         // of each point: readings in a row without an answer
	retry   time.Duration // the probe interval
	probeAt time.Time
	read    []bool // of each point: had an answer since the start; ends the asking for startup points
	last    *Block // the request that ended the last cycle early; the next cycle starts behind it
	lore    lore
	plans   map[string][]Block // by the groups that are due
	cycle   *cycle             // the poll that runs
	asked   time.Time          // when it last began a poll with a request of its own
	spared  int                // polls in a row for which others of its unit asked
	shared  int                // of the unit's misses, those that counted for this device
}

// group is the points of a device that share a period.
type group struct {
	period time.Duration // 0: once after the start
	points []int
	anchor time.Time // a tick of the fixed-rate grid
	due    time.Time // zero: never
	wait   time.Duration
}

func newDevice(cfg Config, index int, u *unit) *device {
	d := &device{
		Device: cfg.Devices[index], index: index, address: cfg.Address, unit: u,
		lore: newLore(), plans: map[string][]Block{},
	}
	d.Offline.After = max(d.Offline.After, 1)
	d.missed = make([]int, len(d.Points))
	d.read = make([]bool, len(d.Points))
	for i, p := range d.Points {
		d.codecs = append(d.codecs, newCodec(p))
		g := slices.IndexFunc(d.groups, func(g *group) bool { return g.period == p.Poll })
		if g < 0 {
			g = len(d.groups)
			d.groups = append(d.groups, &group{period: p.Poll})
		}
		d.groups[g].points = append(d.groups[g].points, i)
	}
	slices.SortFunc(d.groups, func(a, b *group) int { return cmp.Compare(a.period, b.period) })
	return d
}

// start sets the first ticks: everything once within the shortest period or a second, whichever is
// less, then each group on its own grid. Groups of one device share a phase, so that they meet.
func (d *device) start(link string, now time.Time) {
	soon := firstPoll
	if shortest := d.shortest(); shortest > 0 {
		soon = min(soon, shortest)
	}
	h := scatter(link, d.Name)
	for _, g := range d.groups {
		g.due = now.Add(phase(h, soon))
		g.anchor = now.Add(phase(h, g.period))
	}
}

// due is when the next cycle of the device is to start; zero for never.
func (d *device) due() time.Time {
	var first time.Time
	for _, g := range d.groups {
		if !g.due.IsZero() && (first.IsZero() || g.due.Before(first)) {
			first = g.due
		}
	}
	return first
}

// shortest is the shortest period of the device.
func (d *device) shortest() time.Duration {
	for _, g := range d.groups { // in ascending order
		if g.period > 0 {
			return g.period
		}
	}
	return 0
}

// dueGroups are the groups whose tick has come.
func (d *device) dueGroups(now time.Time) []*group {
	var due []*group
	for _, g := range d.groups {
		if !g.due.IsZero() && !g.due.After(now) {
			due = append(due, g)
		}
	}
	return due
}

// advance sets the next ticks of groups that were served, and returns how many ticks were missed.
func (d *device) advance(served []*group, now time.Time) (missed int) {
	for _, g := range served {
		if g.period > 0 {
			next, n := nextTick(g.anchor, g.period, g.due, now)
			g.due, missed = next, missed+n
			continue
		}
		if !slices.ContainsFunc(g.points, func(i int) bool { return !d.read[i] }) {
			g.due = time.Time{}
			continue
		}
		low, high := d.retries()
		g.wait = min(max(2*g.wait, low), high)
		g.due = now.Add(g.wait)
	}
	return missed
}

// retries are the bounds of the intervals of Offline.
func (d *device) retries() (low, high time.Duration) {
	low = d.Offline.RetryMin
	if low <= 0 {
		low = firstPoll
	}
	return low, max(low, d.Offline.RetryMax)
}

// blocks are the requests that read the groups' points now: the plan, and what was refused long
// enough ago to be tried again.
func (d *device) blocks(groups []*group, now time.Time) []Block {
	var key []byte
	for _, g := range groups {
		key = binary.BigEndian.AppendUint64(key, uint64(g.period))
	}
	plan, ok := d.plans[string(key)]
	if !ok {
		plan = d.planned(groups)
		if len(d.plans) >= plansMax {
			d.replan()
		}
		d.plans[string(key)] = plan
	}
	plan = rotate(plan, d.last)
	for _, g := range groups {
		for _, i := range g.points {
			if at, refused := d.lore.refused[i]; refused && !at.After(now) {
				plan = append(slices.Clip(plan), enclose(d.Device, d.Points, []int{i}))
			}
		}
	}
	return plan
}

func (d *device) planned(groups []*group) []Block {
	held := d.lore.held()
	var points []int
	for _, g := range groups {
		for _, i := range g.points {
			if !held[i] && (g.period > 0 || !d.read[i]) {
				points = append(points, i)
			}
		}
	}
	return d.planOf(points)
}

// planOf plans some of the device's points, with what is known about it.
func (d *device) planOf(points []int) []Block {
	cfg := d.Device
	if d.lore.strict {
		cfg.Gap = 0
	}
	return planSome(cfg, points, d.lore.boundaries(d.Points))
}

// replan forgets the plans, because something they depend on has changed.
func (d *device) replan() { clear(d.plans) }

// rotate makes a cycle start behind the block that ended the last one, so that a request that is
// never answered cannot starve those behind it.
func rotate(blocks []Block, last *Block) []Block {
	if last == nil {
		return blocks
	}
	first := slices.IndexFunc(blocks, func(b Block) bool {
		return cmp.Or(cmp.Compare(b.Table, last.Table), cmp.Compare(b.Start, last.Start)) > 0
	})
	if first <= 0 {
		return blocks
	}
	return slices.Concat(blocks[first:], blocks[:first])
}

// probe is the request that asks an offline device whether it is back: one point, and one that was
// answered before if there is any (MB-84).
func (d *device) probe() Block {
	return enclose(d.Device, d.Points, []int{max(slices.Index(d.read, true), 0)})
}

// place names a part of the device in a message.
func (d *device) place(what fmt.Stringer) string {
	return fmt.Sprintf("modbus: %s unit %d %s", d.address, d.Unit, what)
}

// pointBlock is the place of one point.
func (d *device) pointBlock(i int) Block {
	p := d.Points[i]
	return Block{Table: p.Table, Start: p.Address, Quantity: p.Registers(), Points: []int{i}}
}

// decode turns an answer into readings. A mistake in decoding costs the block, not the process
// (MB-117).
func (d *device) decode(b Block, raw []byte, at time.Time) (samples []gateway.Sample) {
	defer func() {
		if r := recover(); r != nil {
			samples = d.failed(b, at, fmt.Errorf("cannot be decoded: %v", r))
		}
	}()
	for _, i := range b.Points {
		s := gateway.Sample{Point: d.Points[i].ID, Time: at}
		s.Value, s.Err = d.value(b, i, raw)
		if s.Err != nil {
			s.Value, s.Err = gateway.Value{}, fmt.Errorf("%s: %w", d.place(d.pointBlock(i)), s.Err)
		}
		samples = append(samples, s)
	}
	return samples
}

// value is that of point i in the answer raw to b.
func (d *device) value(b Block, i int, raw []byte) (gateway.Value, error) {
	p, c := d.Points[i], d.codecs[i]
	if p.Factor != nil {
		n, err := factor(p, raw[2*(int(*p.Factor)-int(b.Start)):])
		if err != nil {
			return gateway.Value{}, err
		}
		c = c.times10(n)
	}
	return c.decode(cutOut(b, p, raw))
}

// factor is the n of a point's factor 10^n in the register that raw begins with (MB-41).
func factor(p Point, raw []byte) (int, error) {
	n := int(int16(gather(wireOrder(p.Order, 2), raw[:2])))
	if n < -factorMax || n > factorMax {
		return 0, fmt.Errorf("%w: its scale factor in %s %d is %d, not -10 to 10", gateway.ErrNotAvailable, p.Table, *p.Factor, n)
	}
	return n, nil
}

// cutOut is the part of the answer raw to b that belongs to p.
func cutOut(b Block, p Point, raw []byte) []byte {
	at := int(p.Address) - int(b.Start)
	if b.Table.Bits() {
		return []byte{raw[at/8] >> (at % 8) & 1}
	}
	return raw[2*at : 2*(at+p.Registers())]
}

// failed are the readings of a block that gave none.
func (d *device) failed(b Block, at time.Time, why error) []gateway.Sample {
	samples := make([]gateway.Sample, 0, len(b.Points))
	for _, i := range b.Points {
		samples = append(samples, gateway.Sample{
			Point: d.Points[i].ID, Time: at, Err: fmt.Errorf("%s: %w", d.place(b), why),
		})
	}
	return samples
}
