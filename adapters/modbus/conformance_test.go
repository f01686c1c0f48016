package modbus

import (
	"io"
	"log"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"
	simonvetter "github.com/simonvetter/modbus"

	gateway "iothub-gateway"
	"iothub-gateway/adapters/adaptertest"
	"iothub-gateway/internal/testkit"
)

// plc is a device behind an independent Modbus implementation: registers hold their address until
// they are written, coils are off; unit 1 only, nothing above 999.
type plc struct {
	mu    sync.Mutex
	regs  map[uint16]uint16
	coils map[uint16]bool
}

func (p *plc) allowed(unit uint8, address, quantity uint16) error {
	switch {
	case unit != 1:
		return simonvetter.ErrGWTargetFailedToRespond
	case int(address)+int(quantity) > 1000:
		return simonvetter.ErrIllegalDataAddress
	}
	return nil
}

func (p *plc) HandleCoils(r *simonvetter.CoilsRequest) ([]bool, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, v := range r.Args {
		p.coils[r.Addr+uint16(i)] = v
	}
	out := make([]bool, r.Quantity)
	for i := range out {
		out[i] = p.coils[r.Addr+uint16(i)]
	}
	return out, p.allowed(r.UnitId, r.Addr, r.Quantity)
}

func (p *plc) HandleDiscreteInputs(r *simonvetter.DiscreteInputsRequest) ([]bool, error) {
	out := make([]bool, r.Quantity)
	for i := range out {
		out[i] = (int(r.Addr)+i)%3 == 0
	}
	return out, p.allowed(r.UnitId, r.Addr, r.Quantity)
}

func (p *plc) HandleHoldingRegisters(r *simonvetter.HoldingRegistersRequest) ([]uint16, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, v := range r.Args {
		p.regs[r.Addr+uint16(i)] = v
	}
	out := make([]uint16, r.Quantity)
	for i := range out {
		at := r.Addr + uint16(i)
		v, written := p.regs[at]
		if !written {
			v = at
		}
		out[i] = v
	}
	return out, p.allowed(r.UnitId, r.Addr, r.Quantity)
}

func (p *plc) HandleInputRegisters(r *simonvetter.InputRegistersRequest) ([]uint16, error) {
	out := make([]uint16, r.Quantity)
	for i := range out {
		out[i] = r.Addr + uint16(i) + 5000
	}
	return out, p.allowed(r.UnitId, r.Addr, r.Quantity)
}

// startPLC serves on a free port until the test ends.
func startPLC(t *testing.T) string {
	t.Helper()
	address := freeAddress(t)
	s, err := simonvetter.NewServer(&simonvetter.ServerConfiguration{
		URL: "tcp://" + address, MaxClients: 4, Logger: log.New(io.Discard, "", 0),
	}, &plc{regs: map[uint16]uint16{}, coils: map[uint16]bool{}})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	})
	return address
}

func plant(address string) Config {
	p := points("d", Holding, 20*time.Millisecond, 40, 41, 1500)
	add := func(id gateway.PointID, poll time.Duration, q Point) {
		q.ID, q.Poll = id, poll
		p = append(p, q)
	}
	add("d/once", 0, reg(Uint16, in(Input), func(p *Point) { p.Address = 7 }))
	add("d/set", 50*time.Millisecond, reg(Int16, scaled(0.1, 0), func(p *Point) { p.Address = 100 }))
	add("d/wide", 50*time.Millisecond, reg(Float32, ordered("cdab"), func(p *Point) { p.Address = 102 }))
	add("d/fixed", time.Second, reg(Bool, in(Discrete), func(p *Point) { p.Address = 9 }))
	add("d/lamp", time.Second, reg(Bool, in(Coil), func(p *Point) { p.Address = 5 }))
	add("d/bit", time.Second, reg(Bool, bit(2), func(p *Point) { p.Address = 120 }))
	return Config{Name: "plc", Address: address, Timeout: time.Second, Devices: []Device{{
		Name: "d", Unit: 1, Gap: 30, Offline: offline(3, time.Second, time.Second), Points: p,
	}}}
}

func TestTheAdapterKeepsThePromisesOfAllAdapters(t *testing.T) {
	adaptertest.Run(t, func(t *testing.T) adaptertest.Setup {
		return adaptertest.Setup{
			Adapter: New(plant(startPLC(t)), nil, zerolog.Nop()),
			Good:    "d/40", Want: gateway.UintValue(40), Bad: "d/1500", Once: "d/once", Readable: true,
			Writable: "d/set", Values: [2]gateway.Value{gateway.FloatValue(21.5), gateway.FloatValue(-3)}, Misfit: gateway.FloatValue(12.34),
			ReadOnly: "d/fixed",
		}
	})
}

// The same promises, whatever the bytes look like and travel on; the device is the scripted one.
func TestTheAdapterKeepsThePromisesOfAllAdaptersOnEveryLine(t *testing.T) {
	for _, tr := range []transport{{"RTU over TCP", RTU, false}, {"ASCII on a pty", ASCII, true}} { // one after the other: the suite counts goroutines
		t.Run(tr.name, func(t *testing.T) {
			adaptertest.Run(t, func(t *testing.T) adaptertest.Setup {
				f := newField()
				f.holes[spot{1, Holding, 1500}] = true
				return adaptertest.Setup{
					Adapter: New(tr.reach(t, f, plant("")), nil, zerolog.Nop()),
					Good:    "d/40", Want: gateway.UintValue(40), Bad: "d/1500", Once: "d/once", Readable: true,
					Writable: "d/set", Values: [2]gateway.Value{gateway.FloatValue(21.5), gateway.FloatValue(-3)}, Misfit: gateway.FloatValue(12.34),
					ReadOnly: "d/fixed",
				}
			})
		})
	}
}

func TestAnIndependentServerUnderstandsEveryRequest(t *testing.T) {
	t.Parallel()
	r := run(t, plant(startPLC(t)), newField())
	for _, c := range []struct {
		point gateway.PointID
		v     gateway.Value
	}{
		{"d/40", gateway.UintValue(65535)}, {"d/set", gateway.FloatValue(-0.1)}, {"d/wide", gateway.FloatValue(21.7)},
		{"d/lamp", gateway.BoolValue(true)}, {"d/lamp", gateway.BoolValue(false)},
		{"d/bit", gateway.BoolValue(false)}, {"d/bit", gateway.BoolValue(true)}, // it has no FC 22
	} {
		if err := r.Write(t.Context(), c.point, c.v, gateway.Confirm{}); err != nil {
			t.Errorf("%s: %v", c.point, err)
		}
		s, err := r.Read(t.Context(), []gateway.PointID{c.point, "d/once", "d/fixed"})
		if err != nil || s[0].Value != c.v || s[1].Value != gateway.UintValue(5007) || s[2].Value != gateway.BoolValue(true) {
			t.Errorf("%s: %v %v", c.point, s, err)
		}
	}
	testkit.Eventually(t, "the written value as a polled reading", func() bool {
		got := r.got.of("d/wide")
		return len(got) > 0 && got[len(got)-1].Value == gateway.FloatValue(21.7)
	})
}

func TestReadsOfAnIndependentServerAreRightUnderLoad(t *testing.T) {
	t.Parallel()
	cfg := plant(startPLC(t))
	cfg.Devices[0].Points = append(cfg.Devices[0].Points, points("n", Holding, 5*time.Millisecond, span2(200, 300)...)...)
	r := run(t, cfg, newField())
	count := func() (n int) {
		for _, b := range r.got.take() {
			for _, s := range b {
				p := cfg.Devices[0].Points[r.points[s.Point].i]
				if u, ok := s.Value.Uint(); ok && s.Err == nil && p.Table == Holding && p.Type == Uint16 {
					if n++; u != uint64(p.Address) {
						t.Errorf("%s is %d", s.Point, u)
					}
				}
			}
		}
		return n
	}
	total := 0
	testkit.Eventually(t, "20000 readings", func() bool { total += count(); return total > 20000 })
}
