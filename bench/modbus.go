package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/rs/zerolog"

	gateway "iothub-gateway"
	"iothub-gateway/adapters/modbus"
	"iothub-gateway/devsim"
	"iothub-gateway/mapping"
)

// modbusFigures are those of the Modbus adapter.
func modbusFigures() []figure {
	return slices.Concat(planFigures(), lineFigures(), loadFigures(), deadFigures(), plantFigures())
}

// modbusDevice is a device with so many holding registers from 0 on, a point each.
func modbusDevice(name string, unit uint8, registers int, period time.Duration) modbus.Device {
	d := modbus.Device{
		Name: name, Unit: unit, MaxRead: modbus.MaxReadRegisters, MaxWrite: modbus.MaxWriteRegisters,
		Offline: modbus.Offline{After: 3, RetryMin: time.Second, RetryMax: time.Second},
	}
	for i := range registers {
		d.Points = append(d.Points, modbus.Point{
			ID: gateway.PointID(fmt.Sprintf("%s/p%03d", name, i)), Table: modbus.Holding, Address: uint16(i), Bit: modbus.WholeRegister,
			Type: modbus.Uint16, Order: "abcd", Scale: 1, Poll: period,
		})
	}
	return d
}

// northbound is what the points of the plant's devices mean: fields of the identity that is called as the
// device, reported at every poll.
func northbound(p *mapping.Plant) *mapping.Plant {
	for _, link := range p.Links {
		for _, d := range link.Devices {
			for _, at := range d.Points {
				p.Points = append(p.Points, gateway.Point{
					ID: at.ID, Identity: gateway.IdentityID(d.Name), Field: string(at.ID[len(d.Name)+1:]), Publish: gateway.Publish{On: gateway.OnPoll},
				})
			}
		}
	}
	return p
}

// field is a simulated link.
type field struct {
	*devsim.Sim
	link modbus.Config // with its address
	stop func() error
}

const linkName = "link"

// startField simulates the devices of a link.
func startField(link modbus.Config) (*field, error) {
	link.Name = linkName
	sim, err := devsim.New(devsim.Config{Plant: northbound(&mapping.Plant{Links: []modbus.Config{link}}), Seed: 1, Log: zerolog.Nop()})
	if err != nil {
		return nil, err
	}
	link.Address = sim.Addr(linkName)
	return &field{Sim: sim, link: link, stop: background(sim.Run)}, nil
}

// master is an adapter that runs.
type master struct {
	*modbus.Adapter
	stop func() error
}

// startMaster runs the adapter of a link; its readings are dropped.
func startMaster(link modbus.Config) master {
	a := modbus.New(link, nil, zerolog.Nop())
	accept := func(context.Context, []gateway.Sample) error { return nil }
	return master{a, background(func(ctx context.Context) error { return a.Run(ctx, accept) })}
}
