package main

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"

	"iothub-gateway/adapters/modbus"
)

const planMaps = 1000

// planFigures are about how few requests a read plan needs.
func planFigures() []figure {
	return []figure{{
		name: "plan_requests", unit: "requests", target: "at most 1.05",
		what:    fmt.Sprintf("read requests that the plans of %d random maps need, of 2 to 10 points close to each other", planMaps),
		limitIs: "the fewest possible, over all ways to part the points of a map",
		value:   plain(func(context.Context) (float64, error) { return planned(requests), nil }),
		limit:   plain(func(context.Context) (float64, error) { return planned(fewestRequests), nil }),
		once:    true,
	}, {
		name: "plan_gaps", unit: "requests", target: "at most 1",
		what:    "read requests for 100 registers that are 1 to 4 apart",
		limitIs: "2",
		value:   plain(func(context.Context) (float64, error) { return float64(requests(gappedDevice())), nil }),
		limit:   fixed(2), once: true,
	}}
}

// planned is the sum of what count says of the random maps.
func planned(count func(modbus.Device) int) (sum float64) {
	for seed := range uint64(planMaps) {
		r := rand.New(rand.NewPCG(seed, 3))
		d := modbusDevice("dev0000", 1, 2+r.IntN(9), 0)
		d.Gap, d.MaxRead = r.IntN(12), 8+r.IntN(30)
		for i := range d.Points {
			d.Points[i].Address, d.Points[i].Type = uint16(r.IntN(80)), []modbus.Type{modbus.Uint16, modbus.Uint32, modbus.Uint64}[r.IntN(3)]
		}
		sum += float64(count(d))
	}
	return sum
}

func requests(d modbus.Device) int { return len(modbus.Plan(d, d.Points, nil)) }

// gappedDevice has 100 registers that are 1 to 4 apart, and the gap that a TCP device has unless its mapping
// says otherwise.
func gappedDevice() modbus.Device {
	d := modbusDevice("dev0000", 1, 100, 0)
	d.Gap = 32
	for i, address := 0, 0; i < len(d.Points); i++ {
		d.Points[i].Address = uint16(address)
		address += 1 + i%4
	}
	return d
}

// fewestRequests is the least number of requests that read the points of d, by trying every way to part
// them.
func fewestRequests(d modbus.Device) int {
	best := make([]int, 1<<len(d.Points))
	for set := 1; set < len(best); set++ {
		best[set] = math.MaxInt
		for part := set; part > 0; part = (part - 1) & set {
			if n := best[set&^part] + 1; n < best[set] && oneRequest(d, part) {
				best[set] = n
			}
		}
	}
	return best[len(best)-1]
}

// oneRequest tells whether one request may read the points whose bits are set.
func oneRequest(d modbus.Device, set int) bool {
	var asked [100]bool
	first, end := len(asked), 0
	for i, p := range d.Points {
		if set>>i&1 == 0 {
			continue
		}
		for n := range p.Registers() {
			asked[int(p.Address)+n] = true
		}
		first, end = min(first, int(p.Address)), max(end, int(p.Address)+p.Registers())
	}
	gap := 0
	for at := first; at < end; at++ {
		if gap++; asked[at] {
			gap = 0
		}
		if gap > d.Gap {
			return false
		}
	}
	return end-first <= d.MaxRead
}
