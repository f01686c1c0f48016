package modbus

import (
	"cmp"
	"maps"
	"slices"
	"time"
)

const (
	// A point that the device refuses is tried again after refusedSoon, then after twice as long, up to
	// refusedRetry (MB-7, code 02): a PLC refuses everything for a moment while a program is loaded.
	refusedSoon  = 15 * time.Second
	refusedRetry = 10 * time.Minute
	// strictAfter is how many holes between points make a device count as one that refuses every
	// register it does not have: then nothing is joined over a gap any more (MB-46).
	strictAfter = 3
)

// lore is what a device's refusals have taught about it, in memory only (MB-46). It belongs to the
// wire.
type lore struct {
	cuts    map[Cut]bool      // where a joined request was refused and both halves were not: over a gap?
	refused map[int]time.Time // points refused on their own: when to try again
	times   map[int]int       // and how often in a row they were
	suspect []suspect         // parts of refused requests that are still to be tried
	strict  bool
}

// suspect is a part of a block that the device refused. The reason is inside it, in the other part,
// or at the cut between them.
type suspect struct {
	block Block
	cut   *Cut // nil: not a part, but a whole block
}

func newLore() lore {
	return lore{cuts: map[Cut]bool{}, refused: map[int]time.Time{}, times: map[int]int{}}
}

// refuse notes that point i was refused at now.
func (l *lore) refuse(i int, now time.Time) {
	l.refused[i] = now.Add(min(refusedSoon<<min(l.times[i], 10), refusedRetry))
	l.times[i]++
}

// give notes that the device gave point i, which it had refused.
func (l *lore) give(i int) {
	delete(l.refused, i)
	delete(l.times, i)
}

// divide notes that the device refused s, and returns the two parts to try instead; false if there
// is nothing left to divide.
func (l *lore) divide(d *device, s suspect) (parts []suspect, ok bool) {
	if s.cut != nil {
		delete(l.cuts, *s.cut) // the reason is inside, not at the edge
	}
	left, right, ok := split(d.Device, d.Points, s.block)
	if !ok {
		return nil, false
	}
	from, _ := span(d.Points[left.Points[0]])
	at, _ := span(d.Points[right.Points[0]])
	cut := Cut{Table: s.block.Table, Address: at}
	if at == from {
		return []suspect{{block: left}, {block: right}}, true // same place, other length: no cut can part them
	}
	l.cuts[cut] = int(left.Start)+left.Quantity < int(right.Start)
	return []suspect{{left, &cut}, {right, &cut}}, true
}

// settle draws the conclusion from the holes that were found for sure: enough of them, and nothing is
// joined over a gap any more, nor searched.
func (l *lore) settle() {
	open := l.open()
	holes := 0
	for cut, gap := range l.cuts {
		if gap && !open[cut] {
			holes++
		}
	}
	if holes >= strictAfter && !l.strict {
		l.strict, l.suspect = true, nil
	}
}

// boundaries are all cuts that planning must respect: the learned ones, and both edges of every
// refused point.
func (l *lore) boundaries(points []Point) []Cut {
	all := maps.Clone(l.cuts)
	for i := range l.refused {
		start, end := span(points[i])
		all[Cut{points[i].Table, start}] = true
		all[Cut{points[i].Table, end}] = true
	}
	return slices.Collect(maps.Keys(all))
}

// holes are the places between points that the device is known to refuse, by address.
func (l *lore) holes(points []Point) (found []Block) {
	open := l.open()
	for cut, gap := range l.cuts {
		if !gap || open[cut] {
			continue
		}
		end := 0
		for _, p := range points {
			if from, to := span(p); p.Table == cut.Table && from < cut.Address {
				end = max(end, to)
			}
		}
		if end < cut.Address {
			found = append(found, Block{Table: cut.Table, Start: uint16(end), Quantity: cut.Address - end})
		}
	}
	slices.SortFunc(found, func(a, b Block) int { return cmp.Or(cmp.Compare(a.Table, b.Table), cmp.Compare(a.Start, b.Start)) })
	return found
}

// open are the cuts of which it is not known yet whether they are the reason.
func (l *lore) open() map[Cut]bool {
	open := map[Cut]bool{}
	for _, s := range l.suspect {
		if s.cut != nil {
			open[*s.cut] = true
		}
	}
	return open
}

// held tells which points normal planning leaves out: refused ones and those under suspicion.
func (l *lore) held() map[int]bool {
	out := make(map[int]bool, len(l.refused))
	for i := range l.refused {
		out[i] = true
	}
	for _, s := range l.suspect {
		for _, i := range s.block.Points {
			out[i] = true
		}
	}
	return out
}
