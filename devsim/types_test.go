package devsim

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/rs/zerolog"

	gateway "iothub-gateway"
	"iothub-gateway/adapters/modbus"
)

func TestAValueOfEveryTypeStandsInItsRegisters(t *testing.T) {
	text, ui, in, f := gateway.TextValue, gateway.UintValue, gateway.IntValue, gateway.FloatValue
	for _, c := range []struct {
		kind  modbus.Type
		order string
		v     gateway.Value
		words []uint16
	}{
		{modbus.BCD16, "abcd", ui(1234), []uint16{0x1234}},
		{modbus.BCD16, "badc", ui(1234), []uint16{0x3412}},
		{modbus.BCD32, "cdab", ui(12345678), []uint16{0x5678, 0x1234}},
		{modbus.BCD64, "abcd", ui(9999999999999999), []uint16{0x9999, 0x9999, 0x9999, 0x9999}},
		{modbus.SignMagnitude16, "abcd", in(-5), []uint16{0x8005}},
		{modbus.SignMagnitude16, "abcd", in(32767), []uint16{0x7FFF}},
		{modbus.SignMagnitude32, "abcd", in(-70000), []uint16{0x8001, 0x1170}},
		{modbus.Float16, "abcd", f(1.5), []uint16{0x3E00}},
		{modbus.Float16, "abcd", f(-2), []uint16{0xC000}},
		{modbus.Float16, "abcd", f(65500), []uint16{0x7BFF}},
		{modbus.Float16, "abcd", f(0.1), []uint16{0x2E66}},
		{modbus.Float16, "abcd", f(6e-8), []uint16{0x0001}}, // the least subnormal
		{modbus.Int24, "abcd", in(-2), []uint16{0x00FF, 0xFFFE}},
		{modbus.Uint24, "cdab", ui(0x123456), []uint16{0x3456, 0x0012}},
		{modbus.Int48, "abcd", in(-1), []uint16{0xFFFF, 0xFFFF, 0xFFFF}},
		{modbus.Uint48, "cdab", ui(0x010203040506), []uint16{0x0506, 0x0304, 0x0102}},
		{modbus.Hex, "abcd", text("0a1b2c"), []uint16{0x0A1B, 0x2C00}},
		{modbus.Hex, "badc", text("0a1b2c"), []uint16{0x1B0A, 0x002C}},
		{modbus.TimeUnix32, "abcd", text("2026-01-31T12:34:56Z"), []uint16{0x697D, 0xF6F0}},
		{modbus.TimeUnix32, "cdab", text("2026-01-31T12:34:56Z"), []uint16{0xF6F0, 0x697D}},
		{modbus.TimeUnix64, "abcd", text("1969-12-31T23:59:59Z"), []uint16{0xFFFF, 0xFFFF, 0xFFFF, 0xFFFF}},
		{modbus.TimeUnixMilli, "abcd", text("1970-01-01T00:00:01.5Z"), []uint16{0, 0, 0, 1500}},
		{modbus.TimeYMDHMS, "cdab", text("2026-01-31T12:34:56Z"), []uint16{2026, 1, 31, 12, 34, 56}},
		{modbus.TimeIEC870, "abcd", text("2026-01-31T12:34:56.789Z"), []uint16{26, 0x011F, 0x0C22, 56789}},
	} {
		p := with(ordered(c.kind, c.order), func(p *modbus.Point) { p.Length = 3 })
		s := build(t, Config{Plant: plantOf(p)})
		set(t, s, p.ID, c.v)
		if words, err := s.Register(p.ID); err != nil || !slices.Equal(words, c.words) {
			t.Errorf("%s %s: %v is %04X (%v), want %04X", c.kind, c.order, c.v, words, err, c.words)
		}
		if v := valueOf(t, s, p.ID); v != c.v {
			t.Errorf("%s %s: %04X is %v, want %v", c.kind, c.order, c.words, v, c.v)
		}
	}
}

func TestAPartOfARegisterLeavesTheOtherAlone(t *testing.T) {
	for _, order := range []string{"abcd", "badc"} {
		high := with(at("high", modbus.Holding, 0, modbus.Int8High), func(p *modbus.Point) { p.Order = order })
		low := with(at("low", modbus.Holding, 0, modbus.Uint8Low), func(p *modbus.Point) { p.Order = order })
		s := build(t, Config{Plant: plantOf(high, low, at("word", modbus.Holding, 0, modbus.Uint16))})
		set(t, s, "boiler/high", gateway.IntValue(-3))
		set(t, s, "boiler/low", gateway.UintValue(0x81))
		want := map[string]uint16{"abcd": 0xFD81, "badc": 0x81FD}[order]
		if words, _ := s.Register("boiler/high"); words[0] != want {
			t.Errorf("%s: %04X, want %04X", order, words[0], want)
		}
		if a, b, word := valueOf(t, s, "boiler/high"), valueOf(t, s, "boiler/low"), valueOf(t, s, "boiler/word"); a != gateway.IntValue(-3) || b != gateway.UintValue(0x81) || word != gateway.UintValue(uint64(want)) {
			t.Errorf("%s: %v, %v, %v", order, a, b, word)
		}
		if _, err := s.Bit("boiler/high"); err == nil {
			t.Error("a byte is a bit")
		}
	}
}

func TestRegistersThatHoldNoValueOfTheirTypeSaySo(t *testing.T) {
	for _, c := range []struct {
		kind  modbus.Type
		words []uint16
	}{
		{modbus.BCD16, []uint16{0x123A}}, {modbus.BCD64, []uint16{0, 0, 0, 0xF}}, {modbus.Float16, []uint16{0x7E00}},
		{modbus.TimeYMDHMS, []uint16{2026, 2, 30, 0, 0, 0}}, {modbus.TimeYMDHMS, []uint16{2026, 2, 3, 24, 0, 0}},
		{modbus.TimeIEC870, []uint16{26, 0x021E, 0, 0}}, {modbus.TimeIEC870, []uint16{26, 0x0201, 0x0080, 0}},
		{modbus.TimeUnix64, []uint16{0x7000, 0, 0, 0}},
	} {
		p := newPoint(ordered(c.kind, "abcd"), gateway.Point{}, 1)
		if v, err := p.value(c.words); !errors.Is(err, gateway.ErrNotAvailable) {
			t.Errorf("%s %04X: %v, %v", c.kind, c.words, v, err)
		}
	}
}

func TestWhatDoesNotFitATypeIsRefused(t *testing.T) {
	for _, c := range []struct {
		kind modbus.Type
		v    gateway.Value
	}{
		{modbus.BCD16, gateway.UintValue(10000)}, {modbus.BCD64, gateway.UintValue(math.MaxUint64)}, {modbus.SignMagnitude16, gateway.IntValue(-32768)},
		{modbus.Int24, gateway.IntValue(1 << 23)}, {modbus.Uint48, gateway.UintValue(1 << 48)}, {modbus.Uint8High, gateway.UintValue(256)},
		{modbus.Float16, gateway.FloatValue(65600)}, {modbus.Hex, gateway.TextValue("0a1b")}, {modbus.Hex, gateway.TextValue("0a1b2x")},
		{modbus.TimeUnix32, gateway.TextValue("2110-01-01T00:00:00Z")}, {modbus.TimeIEC870, gateway.TextValue("2200-01-01T00:00:00Z")},
		{modbus.TimeUnix32, gateway.TextValue("noon")}, {modbus.TimeUnix32, gateway.UintValue(1)}, {modbus.TimeYMDHMS, gateway.TextValue("2026-01-31T12:34:56.5Z")},
	} {
		p := with(ordered(c.kind, "abcd"), func(p *modbus.Point) { p.Length = 3 })
		s := build(t, Config{Plant: plantOf(p)})
		if err := s.Set(p.ID, c.v); !errors.Is(err, gateway.ErrRange) {
			t.Errorf("%s takes %v: %v", c.kind, c.v, err)
		}
	}
}

func TestAScaleFactorStandsInItsRegisterAndScales(t *testing.T) {
	sf := func(p *modbus.Point) { p.Factor = ptr(uint16(100)) }
	power, peak := with(at("power", modbus.Holding, 0, modbus.Int16), sf), with(at("peak", modbus.Holding, 1, modbus.Int16), sf)
	plant := plantOf(power, peak, at("power_sf", modbus.Holding, 100, modbus.Int16))
	plant.Points = []gateway.Point{{ID: "boiler/peak", Range: &gateway.Range{Min: 0, Max: 250_000}}}
	s := build(t, Config{Plant: plant})
	// 250 000 fits an int16 in tens; a factor is for all that it scales.
	if words, _ := s.Register("boiler/power_sf"); int16(words[0]) != 1 {
		t.Errorf("scale factor %d", int16(words[0]))
	}
	set(t, s, "boiler/power", gateway.FloatValue(1234))
	if words, _ := s.Register("boiler/power"); words[0] != 123 || valueOf(t, s, "boiler/power") != gateway.FloatValue(1230) {
		t.Errorf("1234 is %d", words[0])
	}
	set(t, s, "boiler/power_sf", gateway.IntValue(-2))
	if v := valueOf(t, s, "boiler/power"); v != gateway.FloatValue(1.23) {
		t.Errorf("with factor -2 it is %v", v)
	}
	set(t, s, "boiler/power_sf", gateway.IntValue(-32768))
	if _, err := s.Value("boiler/power"); !errors.Is(err, gateway.ErrNotAvailable) {
		t.Errorf("without a factor: %v", err)
	}
}

// every is a device with a point of each type in each order, registers apart from each other.
func every(writable bool) []modbus.Point {
	var points []modbus.Point
	for _, kind := range modbus.Types() {
		for _, order := range []string{"abcd", "cdab", "badc", "dcba"} {
			p := at(fmt.Sprintf("%s_%s", kind, order), modbus.Holding, uint16(8*len(points)), kind)
			p.Order, p.Length, p.Writable, p.Poll = order, 9, writable, time.Hour
			if kind.Registers() > 0 {
				p.Length = 0
			}
			points = append(points, p)
		}
	}
	return append(points, with(at("scaled", modbus.Input, 3, modbus.Int32), func(p *modbus.Point) { p.Factor, p.Poll, p.Scale = ptr(uint16(1)), time.Hour, 0.5 }))
}

// The adapter's codec and the simulator's share no code: what one writes the other reads.
func TestTheAdapterReadsAndWritesEveryTypeAsTheSimulatorHasIt(t *testing.T) {
	for _, writable := range []bool{false, true} {
		s := start(t, Config{Plant: plantOf(every(writable)...)})
		a := adapterOf(t, s)
		for _, p := range s.plant.Links[0].Devices[0].Points {
			got, err := a.Read(t.Context(), []gateway.PointID{p.ID})
			if err != nil {
				t.Fatal(err)
			}
			if want := valueOf(t, s, p.ID); got[0].Err != nil || got[0].Value != want {
				t.Errorf("%s: read %v (%v), the simulator has %v", p.ID, got[0].Value, got[0].Err, want)
			}
			v, ok := trial(p.Type)
			if !p.Writable || !ok {
				continue
			}
			if err := a.Write(t.Context(), p.ID, v, gateway.Confirm{}); err != nil {
				t.Errorf("%s: write %v: %v", p.ID, v, err)
			}
			if got := valueOf(t, s, p.ID); got != v {
				t.Errorf("%s: wrote %v, the simulator has %v", p.ID, v, got)
			}
		}
	}
}

// trial is a value that every type of its kind can hold, and is not symmetric.
func trial(kind modbus.Type) (v gateway.Value, ok bool) {
	low, _ := kind.Bounds()
	switch {
	case kind == modbus.Hex:
		return gateway.TextValue("0102030405060708ff"), true
	case isTime(kind):
		return gateway.TextValue("2031-02-03T04:05:06Z"), true
	case kind == modbus.String:
		return gateway.TextValue("Kessel 4"), true
	case kind.Floating():
		return gateway.FloatValue(-12.5), true
	case kind == modbus.Bool:
		return gateway.BoolValue(true), true
	case low.Sign() < 0:
		return gateway.IntValue(-98), true
	}
	return gateway.UintValue(97), true
}

// adapterOf runs an adapter against the simulator's first link until the test ends.
func adapterOf(t *testing.T, s *Sim) *modbus.Adapter {
	t.Helper()
	cfg := s.plant.Links[0]
	cfg.Address, cfg.Timeout = s.Addr(cfg.Name), 2*time.Second
	a := modbus.New(cfg, nil, zerolog.Nop())
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx, func(context.Context, []gateway.Sample) error { return nil }) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return a
}

func TestADevicesClockGoes(t *testing.T) {
	s := build(t, Config{Plant: plantOf(at("clock", modbus.Holding, 0, modbus.TimeUnix32), with(at("since", modbus.Holding, 4, modbus.TimeYMDHMS), writable))})
	for _, second := range []int64{0, 1, 3600} {
		s.now = func() time.Time { return time.Unix(noon+second, 0) }
		if got := valueOf(t, s, "boiler/clock"); got != gateway.TextValue(time.Unix(noon+second, 0).UTC().Format(time.RFC3339)) {
			t.Errorf("%d s after noon it is %v", second, got)
		}
		if got := valueOf(t, s, "boiler/since"); got != gateway.TextValue("2024-01-01T00:00:00Z") {
			t.Errorf("what may be written went on to %v", got)
		}
	}
}

func TestNumbersOfEveryTypeMoveWithinTheirRange(t *testing.T) {
	plant := plantOf(every(false)...)
	for _, p := range plant.Links[0].Devices[0].Points {
		plant.Points = append(plant.Points, gateway.Point{ID: p.ID, Range: &gateway.Range{Min: 20, Max: 90}})
	}
	s := build(t, Config{Plant: plant})
	seen := map[gateway.PointID]map[gateway.Value]bool{}
	eachSecond(s, func(second int) {
		if second%60 != 0 {
			return
		}
		for _, p := range plant.Links[0].Devices[0].Points {
			if !p.Type.Number() {
				continue
			}
			if seen[p.ID] == nil {
				seen[p.ID] = map[gateway.Value]bool{}
			}
			v := valueOf(t, s, p.ID)
			if x, ok := v.Number(); !ok || x < 20 || x > 90 {
				t.Fatalf("%s is %v", p.ID, v)
			}
			seen[p.ID][v] = true
		}
	})
	for id, values := range seen {
		if len(values) < 10 {
			t.Errorf("%s took %d values in an hour", id, len(values))
		}
	}
}
