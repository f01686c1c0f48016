package e2e

import (
	"fmt"
	"net"
	"sync"
	"testing"

	"github.com/simonvetter/modbus"
)

// plc is a Modbus TCP server that nobody here wrote, around a bank of registers of ours. Holding
// register 0 counts the reads of it, so that every poll sees a value that no other poll has seen.
type plc struct {
	address string

	mu      sync.Mutex // guards the fields below
	holding map[uint16]uint16
	coils   map[uint16]bool
	reads   uint16
	writes  map[uint16]int // by the holding register they begin at

	cfg    modbus.ServerConfiguration
	server *modbus.ModbusServer // nil while it is off
}

func startPLC(t *testing.T) *plc {
	t.Helper()
	return startPLCAs(t, modbus.ServerConfiguration{URL: "tcp://"})
}

// startPLCAs starts it with settings of the library, in whose URL the address is still missing.
func startPLCAs(t *testing.T, cfg modbus.ServerConfiguration) *plc {
	t.Helper()
	probe, err := net.Listen("tcp", "127.0.0.1:0") // the library cannot tell which port it took
	if err != nil {
		t.Fatal(err)
	}
	p := &plc{address: probe.Addr().String(), holding: map[uint16]uint16{}, coils: map[uint16]bool{}, writes: map[uint16]int{}}
	probe.Close()
	cfg.URL, cfg.MaxClients = cfg.URL+p.address, 10
	p.cfg = cfg
	p.on(t)
	t.Cleanup(p.off)
	return p
}

// on begins to listen.
func (p *plc) on(t *testing.T) {
	t.Helper()
	server, err := modbus.NewServer(&p.cfg, p)
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	p.server = server
}

// off ends all connections and listens no more.
func (p *plc) off() {
	if p.server != nil {
		_ = p.server.Stop()
	}
	p.server = nil
}

func (p *plc) HandleCoils(r *modbus.CoilsRequest) ([]bool, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []bool
	for i := range r.Quantity {
		if r.IsWrite {
			p.coils[r.Addr+i] = r.Args[i]
		}
		out = append(out, p.coils[r.Addr+i])
	}
	return out, nil
}

func (p *plc) HandleDiscreteInputs(*modbus.DiscreteInputsRequest) ([]bool, error) {
	return nil, modbus.ErrIllegalFunction
}

func (p *plc) HandleHoldingRegisters(r *modbus.HoldingRegistersRequest) ([]uint16, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if r.UnitId == 9 {
		return nil, modbus.ErrServerDeviceFailure
	}
	if r.Addr <= 0 && r.Addr+r.Quantity > 0 && !r.IsWrite {
		p.reads++
		p.holding[0] = p.reads
	}
	if r.IsWrite {
		p.writes[r.Addr]++
	}
	var out []uint16
	for i := range r.Quantity {
		if r.IsWrite {
			p.holding[r.Addr+i] = r.Args[i]
		}
		out = append(out, p.holding[r.Addr+i])
	}
	return out, nil
}

func (p *plc) HandleInputRegisters(*modbus.InputRegistersRequest) ([]uint16, error) {
	return nil, modbus.ErrIllegalDataAddress
}

func (p *plc) register(address uint16) uint16 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.holding[address]
}

// set changes a holding register as somebody at the device would.
func (p *plc) set(address, value uint16) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.holding[address] = value
}

// writesTo counts the writes that began at a holding register.
func (p *plc) writesTo(address uint16) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.writes[address]
}

func (p *plc) coil(address uint16) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.coils[address]
}

// devices is the mapping of the PLC: two identities on one unit, and one on a unit that answers
// everything with an exception.
func (p *plc) devices(poll string) string {
	return p.devicesAt(fmt.Sprintf("{ tcp: %q, timeout: 1s }", p.address), poll)
}

// devicesAt is devices behind a link.
func (p *plc) devicesAt(link, poll string) string {
	return fmt.Sprintf(`links:
  plc: %[1]s
devices:
  press:
    identity: { device: press, sas_key: "file:keys/press", properties: { site: plant7 } }
    modbus: { link: plc, unit: 1, addressing: zero }
    poll: %[2]s
    points:
      cycles:   { at: holding 0, type: uint16, publish: { on: poll } }
      setpoint: { at: holding 10, type: int16, scale: 0.1, unit: Cel, write: { min: 30, max: 85 } }
      speed:    { at: holding 12, type: float32, order: cdab, write: { min: 0, max: 3000 } }
      lamp:     { at: coil 3, write: true }
    methods:
      setSetpoint: { write: setpoint, from: value }
      setSpeed:    { write: speed, from: value }
      setLamp:     { write: lamp, from: "on" }
      readNow:     { read: [setpoint, speed, lamp] }
  oven:
    identity: { device: cell, module: oven, sas_key: "file:keys/cell-oven" }
    modbus: { link: plc, unit: 2, addressing: one }
    poll: %[2]s
    points:
      beats: { at: holding 1, type: uint16, publish: { on: poll } }
  broken:
    identity: { device: broken, sas_key: "file:keys/broken" }
    modbus: { link: plc, unit: 9, addressing: zero }
    points:
      level: { at: holding 0, type: uint16, write: { min: 0, max: 10 } }
    methods:
      setLevel: { write: level, from: value }
`, link, poll)
}

var plcIdentities = []string{"press", "cell/oven", "broken"}
