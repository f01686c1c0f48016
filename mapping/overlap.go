package mapping

import (
	"cmp"
	"fmt"
	"slices"

	"iothub-gateway/adapters/modbus"
)

// fewest is how many numbers without a unit of one list are worth a warning: one or two may be plain
// counts.
const fewest = 3

// doubtUnits warns about a list of points whose numbers nobody can interpret (W220).
func doubtUnits(list node, name string, points []*point) {
	bare := 0
	for _, p := range points {
		if p.measures() && p.north.Unit == "" && !p.north.Hidden {
			bare++
		}
	}
	if bare >= fewest {
		list.refuse("W220", "%d points of %s have neither unit nor enum; add unit: Cel, kW ... (unit: \"1\" for a plain count)", bare, quote(name))
	}
}

// room is one address space of one unit.
type room struct {
	link  *link
	unit  uint8
	table modbus.Table
}

// checkOverlaps warns about points that claim a register twice: most are a wrong address or type
// (W210). A bit beside the whole register that it is in is how status words are mapped.
func (d *draft) checkOverlaps() {
	rooms := map[room][]*point{}
	var order []room // so that the same file always gives the same findings
	for _, dev := range d.devices {
		for _, p := range dev.points {
			if r := (room{dev.link, dev.unit, p.south.Table}); p.sound && dev.placed {
				if rooms[r] == nil {
					order = append(order, r)
				}
				rooms[r] = append(rooms[r], p)
			}
		}
	}
	for _, r := range order {
		points := rooms[r]
		slices.SortFunc(points, func(a, b *point) int {
			return cmp.Or(cmp.Compare(a.south.Address, b.south.Address), cmp.Compare(a.nth, b.nth))
		})
		var furthest *point
		bits := map[[2]int]*point{}
		for _, p := range points {
			if part := p.partNumber(); part >= 0 {
				place := [2]int{int(p.south.Address), part}
				overlap(bits[place], p)
				bits[place] = p
				continue
			}
			overlap(furthest, p)
			if furthest == nil || p.end() > furthest.end() {
				furthest = p
			}
		}
	}
}

// partNumber tells the bits and bytes of a register apart; below 0 for a whole one. A bit inside a byte is no
// overlap, as inside a register.
func (p *point) partNumber() int {
	switch {
	case p.south.Type.High():
		return 17
	case p.south.Type.Half():
		return 16
	}
	return p.south.Bit
}

// end is the address behind the point.
func (p *point) end() int { return int(p.south.Address) + p.south.Registers() }

// overlap reports two points of one room that claim the same register or bit, at the later one.
func overlap(a, b *point) {
	if a == nil || a.end() <= int(b.south.Address) {
		return
	}
	if a.nth > b.nth {
		a, b = b, a
	}
	b.blame(a, "at").complain("W210", "%s (%s, %s) overlaps %s (%s, %s, line %d)", b.north.ID, b.typeName(), b.where(), a.north.ID, a.typeName(), a.where(), a.key.line)
}

// where is what the point covers, such as "holding 100..101".
func (p *point) where() string {
	place := fmt.Sprintf("%s %d", p.south.Table, p.south.Address)
	if p.south.Bit >= 0 {
		return fmt.Sprintf("%s bit %d", place, p.south.Bit)
	}
	switch {
	case p.south.Type.High():
		return place + " high byte"
	case p.south.Type.Half():
		return place + " low byte"
	}
	if p.south.Registers() > 1 {
		return fmt.Sprintf("%s..%d", place, p.end()-1)
	}
	return place
}
