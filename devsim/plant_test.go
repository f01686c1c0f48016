package devsim

import (
	"context"
	"io"
	"log"
	"testing"
	"time"

	client "github.com/simonvetter/modbus"
	"go.uber.org/goleak"

	gateway "iothub-gateway"
	"iothub-gateway/adapters/modbus"
	"iothub-gateway/mapping"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	boiler = "boiler" // link and device
	noon   = 1_770_000_000
)

// at makes a whole-register point without scaling.
func at(id string, table modbus.Table, address uint16, kind modbus.Type) modbus.Point {
	return modbus.Point{
		ID: gateway.PointID("boiler/" + id), Table: table, Address: address, Bit: modbus.WholeRegister,
		Type: kind, Order: "abcd", Scale: 1,
	}
}

// with changes a point; it keeps tables of points short.
func with(p modbus.Point, change func(*modbus.Point)) modbus.Point {
	change(&p)
	return p
}

func writable(p *modbus.Point) { p.Writable = true }

func tenth(p *modbus.Point) { p.Scale = 0.1 }

func bit(n int) func(*modbus.Point) { return func(p *modbus.Point) { p.Bit = n } }

func ptr[T any](v T) *T { return &v }

// boilerPlant is one device behind unit 1 and a second one behind unit 2 of the same link.
func boilerPlant() *mapping.Plant {
	setpoint := with(at("setpoint", modbus.Holding, 9, modbus.Int16), writable)
	tenth(&setpoint)
	points := []modbus.Point{
		with(at("flow_temp", modbus.Input, 0, modbus.Int16), tenth),
		at("oil_temp", modbus.Input, 10, modbus.Float32),
		at("burner_on", modbus.Discrete, 0, modbus.Bool),
		with(at("lamp", modbus.Coil, 3, modbus.Bool), writable),
		with(at("valve", modbus.Coil, 4, modbus.Bool), writable),
		setpoint,
		with(at("mode", modbus.Holding, 10, modbus.Uint16), func(p *modbus.Point) {
			p.Writable = true
			p.Enum = []modbus.EnumWord{{Raw: 1, Word: "auto"}, {Raw: 2, Word: "manual"}, {Raw: 0, Word: "off"}}
		}),
		with(at("gain", modbus.Holding, 11, modbus.Float32), writable),
		at("alarm_word", modbus.Holding, 99, modbus.Uint16),
		with(at("pump_fault", modbus.Holding, 99, modbus.Bool), bit(3)),
		with(with(at("reset", modbus.Holding, 99, modbus.Bool), bit(12)), writable),
		with(at("hours", modbus.Holding, 119, modbus.Uint32), func(p *modbus.Point) { p.Order = "cdab" }),
		with(at("serial_no", modbus.Holding, 199, modbus.String), func(p *modbus.Point) { p.Length = 16 }),
		with(at("status", modbus.Holding, 300, modbus.Uint16), func(p *modbus.Point) {
			p.Flags = []modbus.Flag{{Bit: 0, Name: "run"}, {Bit: 3, Name: "fault"}}
		}),
		with(at("state", modbus.Holding, 301, modbus.Uint16), func(p *modbus.Point) {
			p.Enum = []modbus.EnumWord{{Raw: 10, Word: "idle"}, {Raw: 20, Word: "heating"}, {Raw: 30, Word: "cooling"}}
		}),
	}
	meter := with(at("gas", modbus.Input, 4, modbus.Uint32), func(p *modbus.Point) { p.ID = "meter/gas" })
	return &mapping.Plant{
		Points: []gateway.Point{
			{ID: "boiler/flow_temp", Unit: "Cel", Range: &gateway.Range{Min: 40, Max: 70}},
			{ID: "boiler/setpoint", Unit: "Cel", Write: &gateway.WriteRule{Min: ptr(30.0), Max: ptr(85.0)}},
			{ID: "boiler/mode", Write: &gateway.WriteRule{Words: []string{"auto", "manual"}}},
			{ID: "boiler/gain", Write: &gateway.WriteRule{Min: ptr(0.0), Max: ptr(3.0)}},
			{ID: "boiler/hours", Unit: "h"},
			{ID: "meter/gas", Unit: "m3"},
		},
		Links: []modbus.Config{{
			Name: boiler, Address: "10.7.3.11:502",
			Devices: []modbus.Device{
				{Name: "boiler", Unit: 1, Points: points},
				{Name: "meter", Unit: 2, Points: []modbus.Point{meter}},
			},
		}},
	}
}

// plantOf is a plant of one device, unit 1, with these points.
func plantOf(points ...modbus.Point) *mapping.Plant {
	return &mapping.Plant{Links: []modbus.Config{{
		Name: boiler, Address: "10.7.3.11:502",
		Devices: []modbus.Device{{Name: "boiler", Unit: 1, Points: points}},
	}}}
}

// build makes a simulator whose clock stands still at noon; its listeners go with the test.
func build(t testing.TB, cfg Config) *Sim {
	t.Helper()
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	s.now = func() time.Time { return time.Unix(noon, 0) }
	t.Cleanup(func() {
		for _, l := range s.links {
			l.listener.Close()
		}
	})
	return s
}

// start is build and Run; Run has returned when the test ends.
func start(t testing.TB, cfg Config) *Sim {
	t.Helper()
	s := build(t, cfg)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return s
}

// connect is an independent client for one unit of the boiler's link.
func connect(t testing.TB, s *Sim, unit uint8) *client.ModbusClient {
	t.Helper()
	c, err := client.NewClient(&client.ClientConfiguration{
		URL: "tcp://" + s.Addr(boiler), Timeout: 2 * time.Second, Logger: log.New(io.Discard, "", 0),
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Open(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetUnitId(unit); err != nil {
		t.Fatal(err)
	}
	return c
}

func valueOf(t testing.TB, s *Sim, point gateway.PointID) gateway.Value {
	t.Helper()
	v, err := s.Value(point)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func numberOf(t testing.TB, s *Sim, point gateway.PointID) float64 {
	t.Helper()
	f, ok := valueOf(t, s, point).Number()
	if !ok {
		t.Fatalf("%s is no number", point)
	}
	return f
}

func set(t testing.TB, s *Sim, point gateway.PointID, v gateway.Value) {
	t.Helper()
	if err := s.Set(point, v); err != nil {
		t.Fatal(err)
	}
}
