package mapping

import (
	"strings"

	"iothub-gateway/adapters/modbus"
)

// factorMark is how a scale begins that the device itself knows: 10^NAME.
const factorMark = "10^"

// factorName is the point whose value is the power of ten, if the scale is written so.
func (n node) factorName() (string, bool) {
	return strings.CutPrefix(n.yaml.Value, factorMark)
}

// findFactors finds the scale factors that the device's points name (MB-41): another int16 of the device,
// near enough to come in one request with the value.
func (dev *device) findFactors(points []*point) {
	byName := map[string]*point{}
	names := []string{}
	for _, p := range points {
		byName[p.name] = p
		names = append(names, p.name)
	}
	for _, p := range points {
		if p.factor.yaml == nil || !p.placed || !p.typed {
			continue
		}
		switch f := byName[p.factorName]; {
		case f == nil && dev.partial:
		case f == nil:
			p.factor.complain("E140", "scale factor point %s does not exist at %s%s", quote(p.factorName), quote(dev.name), didYouMean(p.factorName, names))
		case !f.placed || !f.typed:
		case f.south.Type != modbus.Int16 || f.south.Table != p.south.Table || f.factor.yaml != nil || f.measures() && (f.south.Scale != 1 || f.south.Offset != 0 || f.south.Linear != nil):
			p.factor.complain("E140", "scale factor point %s (line %d) must be a plain int16 in the same table as %s", quote(f.name), f.key.line, quote(p.name))
		default:
			p.joinFactor(f)
		}
	}
}

// joinFactor makes p's value and the factor one thing to read.
func (p *point) joinFactor(f *point) {
	at := f.south.Address
	p.south.Factor = &at
	start, end := min(int(at), int(p.south.Address)), max(int(at)+1, p.end())
	if most := *p.device.protocol.maxRead; end-start > most {
		p.factor.complain("E140", "scale factor point %s and %s are %d registers apart; one request reads %d at most", quote(f.name), quote(p.name), end-start, most)
	}
}
