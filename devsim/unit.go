package devsim

import (
	"cmp"
	"slices"
	"sort"
	"sync"

	"iothub-gateway/adapters/modbus"
)

// cell is one register, or one bit of a bit table. It is the only place where a value stands: points
// that share a register share the cell.
type cell struct {
	word     uint16
	held     uint16 // the bits that no point moves: writable ones, and those that Set holds
	writable uint16 // the bits that a client may write
}

// table is one of the four address spaces of a unit.
type table struct {
	cells  map[uint16]*cell
	points []*point // by address; of those with one address the wider first
	widest int      // cells of the widest point
}

// unit is one simulated field device as the wire sees it; several Devices of the mapping may be
// behind one.
type unit struct {
	maxRead, maxWrite int  // registers of one request
	even              bool // reads of registers start and end at even addresses
	strict            bool // a read of an address that no point covers is refused

	mu     sync.Mutex // guards what the cells hold
	tables [modbus.Input + 1]table
}

func newUnit(strict bool) *unit {
	u := &unit{strict: strict, even: true}
	for i := range u.tables {
		u.tables[i].cells = make(map[uint16]*cell)
	}
	return u
}

// add makes the limits of one more device those of the unit. Where two differ, the more generous
// ones hold.
func (u *unit) add(d modbus.Device) {
	u.maxRead = max(u.maxRead, limitOr(d.MaxRead, modbus.MaxReadRegisters))
	u.maxWrite = max(u.maxWrite, limitOr(d.MaxWrite, modbus.MaxWriteRegisters))
	u.even = u.even && d.Even
}

func limitOr(n, standard int) int {
	if n <= 0 || n > standard {
		return standard
	}
	return n
}

// place gives a point its cells.
func (u *unit) place(p *point) {
	p.unit = u
	t := &u.tables[p.at.Table]
	p.cells = make([]*cell, p.at.Registers())
	for i := range p.cells {
		address := p.at.Address + uint16(i)
		c := t.cells[address]
		if c == nil {
			c = &cell{}
			t.cells[address] = c
		}
		p.cells[i] = c
	}
	t.points = append(t.points, p)
	t.widest = max(t.widest, len(p.cells))
}

// settle is called when every point has its place: it decides who moves what and gives what does
// not move its first value.
func (u *unit) settle() {
	for i := range u.tables {
		t := &u.tables[i]
		slices.SortStableFunc(t.points, func(a, b *point) int {
			return cmp.Or(cmp.Compare(a.at.Address, b.at.Address), cmp.Compare(len(b.cells), len(a.cells)),
				cmp.Compare(a.at.Bit, b.at.Bit))
		})
		t.share()
		t.settleFactors()
		for _, p := range t.points {
			if p.at.Writable || p.at.Type.Text() {
				p.start()
			}
		}
		for _, p := range t.points {
			if p.at.Writable {
				p.open()
			}
		}
	}
}

// open lets clients write the point's bits and keeps other points from moving them.
func (p *point) open() {
	mask := p.layout.mask()
	for _, c := range p.cells {
		c.held |= mask
		c.writable |= mask
	}
}

// share decides who moves a register that a word and parts of it name: the parts move and make the
// word, but an enum moves and makes the parts, because not every number is a word.
func (t *table) share() {
	parts := make(map[*cell]bool)
	words := make(map[*cell]bool)
	for _, p := range t.points {
		for _, c := range p.cells {
			parts[c] = parts[c] || p.layout.part()
			words[c] = words[c] || !p.layout.part() && len(p.at.Enum) > 0
		}
	}
	for _, p := range t.points {
		part := p.layout.part()
		for _, c := range p.cells {
			p.still = p.still || part && words[c] || !part && parts[c] && !words[c]
		}
	}
}

// refresh brings every point that touches the addresses from start to before end to where it stands
// at now. The caller holds the lock.
func (u *unit) refresh(kind modbus.Table, start, end int, now tick) {
	t := &u.tables[kind]
	first := sort.Search(len(t.points), func(i int) bool { return int(t.points[i].at.Address) > start-t.widest })
	for _, p := range t.points[first:] {
		if int(p.at.Address) >= end {
			return
		}
		if p.end() > start {
			p.move(now)
		}
	}
}

// words returns what the point's cells hold at now.
func (u *unit) words(p *point, now tick) []uint16 {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.refresh(p.at.Table, int(p.at.Address), p.end(), now)
	return p.words()
}

// hold sets the point's cells and keeps them.
func (u *unit) hold(p *point, words []uint16) {
	u.mu.Lock()
	defer u.mu.Unlock()
	p.hold(words)
}
