package modbus

import (
	"context"
	"time"

	gateway "iothub-gateway"
)

// cycle is the reading of some points of one device, request by request.
type cycle struct {
	w      *wire
	d      *device
	urgent bool // somebody waits: connect without backoff
	budget int  // requests that may search for what the device refuses
	tries  int  // how often the next request may go unanswered and be made again (MB-82)

	groups   []*group // of a poll: what is due
	blocks   []Block  // still to be asked
	queue    []suspect
	samples  []gateway.Sample
	answered bool   // the device gave any answer
	end      *fault // why the cycle ended early, if it did
	missing  Block  // the request that ended it

	searching bool // of a poll: it looks for what the device refuses
	refusals  int  // and with so many refused points
}

// step makes the next request: first the plan's, then the search in what was refused. It is false if
// that was the last one.
func (c *cycle) step(ctx context.Context) bool {
	switch {
	case len(c.blocks) > 0:
		b := c.blocks[0]
		if c.fetch(ctx, suspect{block: b}) {
			c.blocks = c.blocks[1:]
		} else if !c.again() {
			return false
		}
	case c.budget > 0 && len(c.queue) > 0:
		s := c.queue[0]
		c.queue = c.queue[1:]
		c.budget--
		if !c.fetch(ctx, s) {
			c.queue = append(c.queue, s) // another time
			return false
		}
	}
	return len(c.blocks) > 0 || c.budget > 0 && len(c.queue) > 0
}

// again tells whether the request that was not answered is to be made again.
func (c *cycle) again() bool {
	if c.tries == 0 || c.end.kind != silent && c.end.kind != lost {
		return false
	}
	c.tries--
	c.end = nil
	return true
}

// fetch makes one request. It is false if the device did not answer: then the rest of the cycle is
// left out, so that a dead unit costs one timeout.
func (c *cycle) fetch(ctx context.Context, s suspect) bool {
	raw, f := c.w.read(ctx, c.d, s.block, c.urgent)
	switch {
	case f == nil:
		c.answered, c.tries = true, c.w.link.cfg.Retries
		c.good(s.block, raw)
	case f.kind == impossible:
		c.samples = append(c.samples, c.d.failed(s.block, time.Now(), f.readErr())...)
	case !f.alive():
		c.end, c.missing = f, s.block
		return false
	default:
		c.answered, c.tries = true, c.w.link.cfg.Retries
		c.refused(s, f)
	}
	return true
}

func (c *cycle) good(b Block, raw []byte) {
	d := c.d
	samples := d.decode(b, raw, c.w.link.arrived)
	c.samples = append(c.samples, samples...)
	for n, i := range b.Points {
		d.missed[i] = 0
		if samples[n].Err == nil && !d.read[i] {
			d.read[i] = true
			d.replan()
		}
		if _, was := d.lore.refused[i]; was {
			c.w.relearn(d, i)
		}
	}
}

// refused treats an exception: of a joined request the parts are tried next, of a single place the
// points are bad until they are tried again (MB-7, MB-46).
func (c *cycle) refused(s suspect, f *fault) {
	d := c.d
	for _, i := range s.block.Points {
		d.missed[i] = 0
	}
	if f.code == illegalAddress || f.code == illegalValue {
		if parts, ok := d.lore.divide(d, s); ok {
			c.queue = append(parts, c.queue...) // depth first: certainty soon
			c.searching = true
			d.replan()
			return
		}
	}
	c.samples = append(c.samples, d.failed(s.block, c.w.link.arrived, f.readErr())...)
	if f.code <= illegalValue {
		c.w.refuse(d, s.block)
	}
}

// poll makes one request of the device's poll cycle, and begins it if none runs: everything that is due,
// planned together, and handed over in one piece (MB-45, MB-51). Between two requests of a cycle other
// units are served (MB-53).
func (w *wire) poll(ctx context.Context, d *device) {
	if d.cycle == nil {
		d.cycle = w.begin(d, time.Now())
	}
	if d.cycle.end == nil && d.cycle.step(ctx) {
		return
	}
	w.finish(d)
}

// begin starts a poll cycle. One of a unit that is silent may stand for another's (see spared).
func (w *wire) begin(d *device, now time.Time) *cycle {
	c := &cycle{w: w, d: d, budget: extraMax, groups: d.dueGroups(now), queue: d.lore.suspect, refusals: len(d.lore.refused)}
	c.searching = len(c.queue) > 0
	c.blocks = d.blocks(c.groups, now)
	switch u := d.unit; {
	case !u.silent:
		c.tries = w.link.cfg.Retries
	case len(c.blocks) > 0 && u.why != nil && w.spared(d, now):
		c.end, c.missing = u.why, c.blocks[0]
		d.spared++
		d.shared = u.misses
		return c
	}
	d.asked, d.spared = now, 0
	return c
}

// spared tells whether a device need not ask its unit, which is silent, because another device of the unit
// asks in the same round: two devices on one dead unit cost one timeout. They take turns, so that one
// whose own requests are answered finds that out.
func (w *wire) spared(d *device, now time.Time) bool {
	others, soon := 0, false
	for _, o := range w.devices {
		if o == d || o.unit != d.unit || o.state == Down {
			continue
		}
		others++
		soon = soon || o.asked.Before(d.asked) && o.due().Before(now.Add(d.shortest()))
	}
	fresh := d.unit.misses > d.shared && d.spared < others
	return fresh || soon
}

// finish ends the poll cycle of a device: what it gave is handed over, and the next ticks are set.
func (w *wire) finish(d *device) {
	c := d.cycle
	d.cycle = nil
	d.lore.suspect = c.queue
	d.lore.settle()
	if c.searching || len(c.queue) > 0 {
		d.replan() // the plan leaves out what is searched
		holes := d.lore.holes(d.Points)
		w.a.note(func(s *Stats) { s.Devices[d.index].Holes = holes })
	}
	w.logRefused(d, c.refusals)
	samples := append(c.samples, w.judge(d, c)...)
	w.a.out.put(samples)
	waited := c.end != nil && c.end.waiting
	skipped := d.advance(c.groups, time.Now())
	w.a.note(func(s *Stats) {
		ds := &s.Devices[d.index]
		ds.Skipped += uint64(skipped)
		if waited {
			ds.Skipped++
		} else {
			ds.Polls++
		}
	})
}

// judge draws the conclusions of a poll cycle for the device's state. A point is bad after as many
// misses in a row as the device may have; before that its last value stands (MB-58, MB-83).
func (w *wire) judge(d *device, c *cycle) []gateway.Sample {
	if c.answered {
		w.up(d)
	}
	if c.end == nil {
		d.last = nil
		return nil
	}
	if c.end.kind == aborted || c.end.waiting {
		return nil
	}
	missing := c.missing
	d.last = &missing
	if u := d.unit; !c.answered && c.end.sent && c.end != u.why { // a miss of its own
		u.misses++
		u.why, d.shared = c.end, u.misses
	}
	w.a.note(func(s *Stats) { s.Devices[d.index].LastError = c.end.Error() })
	if !c.answered {
		d.fails++
	}
	if d.fails >= d.Offline.After {
		return w.down(d, c.end)
	}
	var bad []int
	for _, i := range missing.Points {
		d.missed[i]++
		if d.missed[i] == d.Offline.After {
			bad = append(bad, i)
		}
	}
	missing.Points = bad
	return d.failed(missing, time.Now(), c.end.readErr())
}

// refuse notes that the device does not let the block's points be read.
func (w *wire) refuse(d *device, b Block) {
	for _, i := range b.Points {
		d.lore.refuse(i, time.Now())
	}
	w.showRefused(d)
	d.replan()
}

// logRefused writes one line about the points that a cycle found to be refused.
func (w *wire) logRefused(d *device, before int) {
	if n := len(d.lore.refused); n > before {
		w.log.Warn().Str("device", d.Name).Uint8("unit", d.Unit).Int("new", n-before).Strs("points", d.refusedNames()).
			Msg("device refuses points; check their addresses in the mapping")
	}
}

// relearn notes that the device gave a point that it had refused: what else it taught may be out of
// date too.
func (w *wire) relearn(d *device, i int) {
	d.lore.give(i)
	clear(d.lore.cuts)
	d.lore.strict = false
	w.a.note(func(s *Stats) { s.Devices[d.index].Holes = nil })
	d.replan()
	w.showRefused(d)
	w.log.Info().Str("device", d.Name).Str("point", string(d.Points[i].ID)).Msg("device gives the point")
}

// refusedPoints are the points that the device refuses, in the mapping's order.
func (d *device) refusedPoints() (ids []gateway.PointID) {
	for i, p := range d.Points {
		if _, refused := d.lore.refused[i]; refused {
			ids = append(ids, p.ID)
		}
	}
	return ids
}

// refusedNames are the first of them, for a log line.
func (d *device) refusedNames() (names []string) {
	for _, id := range d.refusedPoints() {
		if len(names) == 5 {
			return append(names, "...")
		}
		names = append(names, string(id))
	}
	return names
}

func (w *wire) showRefused(d *device) {
	ids := d.refusedPoints()
	w.a.note(func(s *Stats) { s.Devices[d.index].Refused = ids })
}
