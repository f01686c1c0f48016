package devsim

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	burrow "github.com/goburrow/modbus"
	client "github.com/simonvetter/modbus"

	gateway "iothub-gateway"
	"iothub-gateway/adapters/modbus"
	"iothub-gateway/mapping"
)

func TestAnIndependentClientReadsTheValuesThatTheSimulatorShows(t *testing.T) {
	s := start(t, Config{Plant: boilerPlant(), Seed: 4})
	c := connect(t, s, 1)

	flow, err := c.ReadRegister(0, client.INPUT_REGISTER)
	if want := numberOf(t, s, "boiler/flow_temp"); err != nil || math.Abs(float64(int16(flow))*0.1-want) > 1e-9 {
		t.Errorf("flow_temp: raw %d (%v), want %g", flow, err, want)
	}
	oil, err := c.ReadFloat32(10, client.INPUT_REGISTER)
	if want := numberOf(t, s, "boiler/oil_temp"); err != nil || oil != float32(want) {
		t.Errorf("oil_temp: %g (%v), want %g", oil, err, want)
	}
	burner, err := c.ReadDiscreteInput(0)
	if want := valueOf(t, s, "boiler/burner_on"); err != nil || gateway.BoolValue(burner) != want {
		t.Errorf("burner_on: %v (%v), want %v", burner, err, want)
	}
	word, err := c.ReadRegister(99, client.HOLDING_REGISTER)
	if want := valueOf(t, s, "boiler/pump_fault"); err != nil || gateway.BoolValue(word&8 != 0) != want {
		t.Errorf("pump_fault: word %#x (%v), want %v", word, err, want)
	}
	text, err := c.ReadRawBytes(199, 16, client.HOLDING_REGISTER)
	want, _ := valueOf(t, s, "boiler/serial_no").Text()
	if err != nil || string(bytes.TrimRight(text, "\x00")) != want {
		t.Errorf("serial_no: %q (%v), want %q", text, err, want)
	}
	if err := c.SetEncoding(client.BIG_ENDIAN, client.LOW_WORD_FIRST); err != nil {
		t.Fatal(err)
	}
	hours, err := c.ReadUint32(119, client.HOLDING_REGISTER)
	if want := valueOf(t, s, "boiler/hours"); err != nil || gateway.UintValue(uint64(hours)) != want {
		t.Errorf("hours: %d (%v), want %v", hours, err, want)
	}
	if hours < 1000 || hours > 100_000 {
		t.Errorf("hours: %d, implausible for a plant of a few years", hours)
	}
}

func TestAnIndependentClientWritesWhatIsWritable(t *testing.T) {
	s := start(t, Config{Plant: boilerPlant()})
	c := connect(t, s, 1)
	for what, err := range map[string]error{
		"FC 5":  c.WriteCoil(3, true),
		"FC 6":  c.WriteRegister(9, 400),
		"FC 16": c.WriteFloat32(11, 2.5),
	} {
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	for id, want := range map[gateway.PointID]gateway.Value{
		"boiler/lamp":     gateway.BoolValue(true),
		"boiler/setpoint": gateway.FloatValue(40),
		"boiler/gain":     gateway.FloatValue(2.5),
	} {
		if got := valueOf(t, s, id); got != want {
			t.Errorf("%s: %v, want %v", id, got, want)
		}
	}
	if err := c.WriteCoils(3, []bool{false, true}); err != nil {
		t.Errorf("FC 15: %v", err)
	}
	if bits, err := c.ReadCoils(3, 2); err != nil || bits[0] || !bits[1] {
		t.Errorf("coils %v (%v), want off and on", bits, err)
	}
	if err := c.WriteRegister(119, 1); !errors.Is(err, client.ErrIllegalDataAddress) {
		t.Errorf("write of a counter: %v, want exception 2", err)
	}
}

func TestAnIndependentClientUsesMaskAndReadWrite(t *testing.T) {
	s := start(t, Config{Plant: boilerPlant()})
	handler := burrow.NewTCPClientHandler(s.Addr(boiler))
	handler.SlaveId, handler.Timeout = 1, 2*time.Second
	defer handler.Close()
	c := burrow.NewClient(handler)
	set(t, s, "boiler/alarm_word", gateway.UintValue(0x0003))
	if _, err := c.MaskWriteRegister(99, ^uint16(0x1000), 0x1000); err != nil {
		t.Errorf("FC 22: %v", err)
	}
	if word := numberOf(t, s, "boiler/alarm_word"); word != 0x1003 {
		t.Errorf("the mask left %#x, want 1003", int(word))
	}
	words, err := c.ReadWriteMultipleRegisters(9, 2, 9, 1, []byte{0x01, 0x90})
	if err != nil || !bytes.Equal(words, []byte{0x01, 0x90, 0x00, 0x01}) {
		t.Errorf("FC 23: % X (%v)", words, err)
	}
}

// orders are the client's names for MB-36's.
var orders = []struct {
	name  string
	bytes client.Endianness
	words client.WordOrder
}{
	{"abcd", client.BIG_ENDIAN, client.HIGH_WORD_FIRST},
	{"cdab", client.BIG_ENDIAN, client.LOW_WORD_FIRST},
	{"badc", client.LITTLE_ENDIAN, client.HIGH_WORD_FIRST},
	{"dcba", client.LITTLE_ENDIAN, client.LOW_WORD_FIRST},
}

// orderPlant has five writable values in each order, 20 addresses apart.
func orderPlant() *mapping.Plant {
	var points []modbus.Point
	for i, order := range orders {
		for offset, kind := range map[uint16]modbus.Type{
			0: modbus.Uint16, 1: modbus.Uint32, 3: modbus.Float32, 5: modbus.Uint64, 9: modbus.Float64,
		} {
			points = append(points, with(at(order.name+kind.String(), modbus.Holding, uint16(20*i)+offset, kind),
				func(p *modbus.Point) { p.Order, p.Writable = order.name, true }))
		}
	}
	return plantOf(points...)
}

func TestAnIndependentClientAgreesOnEveryByteOrderBothWays(t *testing.T) {
	s := start(t, Config{Plant: orderPlant()})
	c := connect(t, s, 1)
	for i, order := range orders {
		if err := c.SetEncoding(order.bytes, order.words); err != nil {
			t.Fatal(err)
		}
		base := uint16(20 * i)
		id := func(kind modbus.Type) gateway.PointID { return gateway.PointID("boiler/" + order.name + kind.String()) }

		set(t, s, id(modbus.Uint16), gateway.UintValue(0x0102))
		set(t, s, id(modbus.Uint32), gateway.UintValue(0x01020304))
		set(t, s, id(modbus.Float32), gateway.FloatValue(123.456))
		set(t, s, id(modbus.Uint64), gateway.UintValue(0x0102030405060708))
		set(t, s, id(modbus.Float64), gateway.FloatValue(123.456))
		u16, err16 := c.ReadRegister(base, client.HOLDING_REGISTER)
		u32, err32 := c.ReadUint32(base+1, client.HOLDING_REGISTER)
		f32, errF32 := c.ReadFloat32(base+3, client.HOLDING_REGISTER)
		u64, err64 := c.ReadUint64(base+5, client.HOLDING_REGISTER)
		f64, errF64 := c.ReadFloat64(base+9, client.HOLDING_REGISTER)
		if err := errors.Join(err16, err32, errF32, err64, errF64); err != nil {
			t.Fatal(err)
		}
		if u16 != 0x0102 || u32 != 0x01020304 || f32 != 123.456 || u64 != 0x0102030405060708 || f64 != 123.456 {
			t.Errorf("%s read: %#x %#x %g %#x %g", order.name, u16, u32, f32, u64, f64)
		}

		err := errors.Join(c.WriteRegisters(base, []uint16{0xA1A2}), c.WriteUint32(base+1, 0xA1A2A3A4),
			c.WriteFloat32(base+3, -0.25), c.WriteUint64(base+5, 0xA1A2A3A4A5A6A7A8), c.WriteFloat64(base+9, -7.125))
		if err != nil {
			t.Fatal(err)
		}
		for kind, want := range map[modbus.Type]gateway.Value{
			modbus.Uint16: gateway.UintValue(0xA1A2), modbus.Uint32: gateway.UintValue(0xA1A2A3A4),
			modbus.Float32: gateway.FloatValue(-0.25), modbus.Uint64: gateway.UintValue(0xA1A2A3A4A5A6A7A8),
			modbus.Float64: gateway.FloatValue(-7.125),
		} {
			if got := valueOf(t, s, id(kind)); got != want {
				t.Errorf("%s %s written: %v, want %v", order.name, kind, got, want)
			}
		}
	}
}

func TestAnIndependentClientSeesTheDialsAsFaults(t *testing.T) {
	s := start(t, Config{Plant: boilerPlant()})
	c := connect(t, s, 1)
	read := func() error {
		_, err := c.ReadRegister(9, client.HOLDING_REGISTER)
		return err
	}
	for code, want := range map[byte]error{
		1: client.ErrIllegalFunction, 2: client.ErrIllegalDataAddress, 4: client.ErrServerDeviceFailure,
		6: client.ErrServerDeviceBusy, 0x0B: client.ErrGWTargetFailedToRespond,
	} {
		s.Exception(boiler, 1, code)
		if err := read(); !errors.Is(err, want) {
			t.Errorf("exception %d: %v, want %v", code, err, want)
		}
	}
	s.Exception(boiler, 1, 0)
	s.Mute(boiler, 1, true)
	if err := read(); !errors.Is(err, client.ErrRequestTimedOut) {
		t.Errorf("muted: %v, want a timeout", err)
	}
	s.Mute(boiler, 1, false)
	if err := read(); err != nil {
		t.Errorf("after the dials are back: %v", err)
	}
	s.Drop(boiler)
	if err := read(); err == nil {
		t.Error("a dropped connection still answers")
	}
}

func TestClientsOfAUnitNeverSeeHalfOfAWrite(t *testing.T) {
	const clients, writes = 4, 60
	point := with(at("total", modbus.Holding, 0, modbus.Uint64), writable)
	s := start(t, Config{Plant: plantOf(point)})
	set(t, s, "boiler/total", gateway.UintValue(0))
	connections := make([]*client.ModbusClient, clients+1)
	for i := range connections {
		connections[i] = connect(t, s, 1)
	}
	errs := make(chan error, clients)
	var running sync.WaitGroup
	for i, c := range connections[:clients] {
		running.Go(func() {
			for range writes {
				if err := c.WriteUint64(0, uint64(i)*0x0001_0001_0001_0001); err != nil {
					errs <- err
					return
				}
			}
		})
	}
	for range writes {
		words, err := connections[clients].ReadRegisters(0, 4, client.HOLDING_REGISTER)
		if err != nil {
			t.Fatal(err)
		}
		if slices.Min(words) != slices.Max(words) {
			t.Fatalf("half of a write: %04X", words)
		}
	}
	running.Wait()
	close(errs)
	for err := range errs {
		t.Error(err)
	}
	if n := s.Requests(boiler); n != clients*writes+writes {
		t.Errorf("%d requests counted, %d sent", n, clients*writes+writes)
	}
}

func TestAPlantOfFiveHundredDevicesAnswersEachOfThem(t *testing.T) {
	const devices, points = 500, 30
	plant := &mapping.Plant{}
	for d := range devices {
		name := fmt.Sprintf("d%d", d)
		device := modbus.Device{Name: name, Unit: uint8(d%247 + 1)}
		for i := range points {
			p := at("", modbus.Holding, uint16(2*i), modbus.Float32)
			p.ID = gateway.PointID(fmt.Sprintf("%s/p%d", name, i))
			device.Points = append(device.Points, p)
		}
		plant.Links = append(plant.Links, modbus.Config{Name: name, Devices: []modbus.Device{device}})
	}
	s := start(t, Config{Plant: plant})
	request := binary.BigEndian.AppendUint16([]byte{0, 1, 0, 0, 0, 6, 0, readHolding, 0, 0}, 2*points)
	for d := range devices {
		name := fmt.Sprintf("d%d", d)
		set(t, s, gateway.PointID(name+"/p29"), gateway.FloatValue(float64(d)))
		request[6] = uint8(d%247 + 1)
		if got := lastFloat(t, s.Addr(name), request, points); got != float32(d) {
			t.Fatalf("%s answers %g", name, got)
		}
	}
}

// lastFloat sends a read of n floats and returns the last of them.
func lastFloat(t *testing.T, address string, request []byte, n int) float32 {
	t.Helper()
	conn, err := net.DialTimeout("tcp", address, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write(request); err != nil {
		t.Fatal(err)
	}
	answer := make([]byte, headerBytes+2+4*n)
	if _, err := io.ReadFull(conn, answer); err != nil {
		t.Fatal(err)
	}
	return math.Float32frombits(binary.BigEndian.Uint32(answer[len(answer)-4:]))
}
