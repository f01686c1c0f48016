package modbus

import (
	"cmp"
	"fmt"
	"slices"
)

// Block is one read request.
type Block struct {
	Table    Table
	Start    uint16 // first protocol address
	Quantity int    // registers; of a bit table: bits
	// Points are the points it serves, as positions in the list that was planned, by address.
	Points []int
}

// String is the place as messages name it: "holding 40..41".
func (b Block) String() string {
	if b.Quantity == 1 {
		return fmt.Sprintf("%s %d", b.Table, b.Start)
	}
	return fmt.Sprintf("%s %d..%d", b.Table, b.Start, int(b.Start)+b.Quantity-1)
}

// Cut is a place where requests end: none joins a point of Table that starts below Address with one
// that starts at it or above. Cuts are what a device's refusals teach (MB-46).
type Cut struct {
	Table   Table
	Address int // 1..65536
}

// Plan joins points of d into read requests (MB-45). Every point is served by exactly one block and
// never split. A block stays in one table, crosses no cut, reads at most d.MaxRead registers or 2000
// bits, and holds no run of more than d.Gap registers (or bits) that nobody asked for, but for the
// one at either end that d.Even may ask for. A point that alone is wider than the limit has a block
// of its own. The blocks are ordered by table and address.
func Plan(d Device, points []Point, cuts []Cut) []Block {
	order := make([]int, len(points))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return byPlace(points[a], points[b]) })
	p := planner{d, points, cuts}
	var blocks []Block
	for _, i := range order {
		if n := len(blocks); n == 0 || !p.extend(&blocks[n-1], i) {
			blocks = append(blocks, enclose(d, points, []int{i}))
		}
	}
	return blocks
}

// planSome plans some of the points of d; the blocks' Points are positions in d.Points.
func planSome(d Device, points []int, cuts []Cut) []Block {
	list := make([]Point, len(points))
	for n, i := range points {
		list[n] = d.Points[i]
	}
	blocks := Plan(d, list, cuts)
	for _, b := range blocks {
		for n, at := range b.Points {
			b.Points[n] = points[at]
		}
	}
	return blocks
}

func byPlace(a, b Point) int {
	aStart, aEnd := span(a)
	bStart, bEnd := span(b)
	return cmp.Or(
		cmp.Compare(a.Table, b.Table),
		cmp.Compare(aStart, bStart),
		cmp.Compare(aEnd, bEnd),
	)
}

// span is what a point covers: from its first address to the one behind its last, its factor included.
func span(p Point) (start, end int) {
	start, end = int(p.Address), int(p.Address)+p.Registers()
	if p.Factor != nil {
		start, end = min(start, int(*p.Factor)), max(end, int(*p.Factor)+1)
	}
	return start, end
}

// planner is what a plan is made from.
type planner struct {
	d      Device
	points []Point
	cuts   []Cut
}

// extend takes point i into the block if the rules allow.
func (p planner) extend(b *Block, i int) bool {
	next := p.points[i]
	if next.Table != b.Table || p.crosses(p.points[b.Points[0]], next) {
		return false
	}
	start, _ := span(next)
	if _, end := reach(p.points, b.Points); start > end+p.d.Gap {
		return false
	}
	joined := enclose(p.d, p.points, append(slices.Clip(b.Points), i))
	if joined.Quantity > limit(p.d, b.Table) {
		return false
	}
	*b = joined
	return true
}

func (p planner) crosses(first, next Point) bool {
	from, _ := span(first)
	to, _ := span(next)
	return slices.ContainsFunc(p.cuts, func(c Cut) bool {
		return c.Table == next.Table && from < c.Address && c.Address <= to
	})
}

// reach is the range that points, ordered by place, cover together.
func reach(points []Point, which []int) (start, end int) {
	start, _ = span(points[which[0]])
	for _, i := range which {
		_, e := span(points[i])
		end = max(end, e)
	}
	return start, end
}

// enclose is the block that reads the points which, ordered by place.
func enclose(d Device, points []Point, which []int) Block {
	table := points[which[0]].Table
	start, end := reach(points, which)
	if d.Even && !table.Bits() {
		if s, e := start&^1, (end+1)&^1; e-s <= MaxReadRegisters {
			start, end = s, e
		}
	}
	return Block{Table: table, Start: uint16(start), Quantity: end - start, Points: which}
}

// limit is the greatest quantity of one read request of d.
func limit(d Device, t Table) int {
	switch {
	case t.Bits():
		return MaxReadBits
	case d.MaxRead > 0:
		return min(d.MaxRead, MaxReadRegisters)
	default:
		return MaxReadRegisters
	}
}

// split halves a block between two points, for the search for what a device refuses (MB-46). It is
// false if all points stand at the same place.
func split(d Device, points []Point, b Block) (left, right Block, ok bool) {
	middle := len(b.Points) / 2
	for step := range len(b.Points) {
		for _, at := range []int{middle - step, middle + step} {
			if at < 1 || at >= len(b.Points) {
				continue
			}
			if byPlace(points[b.Points[at-1]], points[b.Points[at]]) != 0 {
				return enclose(d, points, b.Points[:at]), enclose(d, points, b.Points[at:]), true
			}
		}
	}
	return b, b, false
}
