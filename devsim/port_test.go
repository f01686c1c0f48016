package devsim

import (
	"bytes"
	"encoding/hex"
	"errors"
	"io"
	"log"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	burrow "github.com/goburrow/modbus"
	client "github.com/simonvetter/modbus"

	gateway "iothub-gateway"
	"iothub-gateway/adapters/modbus"
	"iothub-gateway/internal/testkit"
	"iothub-gateway/mapping"
)

func line9600() *modbus.Serial {
	return &modbus.Serial{Baud: 9600, DataBits: 8, Parity: modbus.EvenParity, StopBits: 1}
}

// linePlant is the boiler's plant on a serial line.
func linePlant(framing modbus.Framing, serial *modbus.Serial) *mapping.Plant {
	plant := boilerPlant()
	plant.Links[0].Framing, plant.Links[0].Serial, plant.Links[0].Address = framing, serial, "/dev/ttyUSB0"
	return plant
}

func TestAnIndependentMasterReadsAndWritesOverASerialLine(t *testing.T) {
	s := start(t, Config{Plant: linePlant(modbus.RTU, &modbus.Serial{Baud: 115200, DataBits: 8, StopBits: 1})})
	c, err := client.NewClient(&client.ClientConfiguration{
		URL: "rtu://" + s.Addr(boiler), Speed: 115200, Timeout: 2 * time.Second, Logger: log.New(io.Discard, "", 0),
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(c.Open(), c.SetUnitId(1)); err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.WriteRegister(9, 400); err != nil {
		t.Errorf("FC 6: %v", err)
	}
	if got := valueOf(t, s, "boiler/setpoint"); got != gateway.FloatValue(40) {
		t.Errorf("the setpoint is %v", got)
	}
	if word, err := c.ReadRegister(9, client.HOLDING_REGISTER); err != nil || word != 400 {
		t.Errorf("FC 3: %d, %v", word, err)
	}
	if n := s.Requests(boiler); n != 2 {
		t.Errorf("%d requests", n)
	}
}

func TestAnIndependentMasterReadsASCII(t *testing.T) {
	s := start(t, Config{Plant: linePlant(modbus.ASCII, &modbus.Serial{Baud: 115200, DataBits: 7, Parity: modbus.EvenParity, StopBits: 1})})
	h := burrow.NewASCIIClientHandler(s.Addr(boiler))
	h.BaudRate, h.DataBits, h.Parity, h.StopBits, h.SlaveId, h.Timeout = 115200, 8, "N", 1, 1, 2*time.Second
	defer h.Close()
	words, err := burrow.NewClient(h).ReadHoldingRegisters(9, 1)
	if err != nil || !bytes.Equal(words, []byte{0x02, 0x3F}) {
		t.Errorf("% X, %v", words, err)
	}
}

func TestALineThatIsDroppedIsPluggedInAgainAtItsPath(t *testing.T) {
	s := start(t, Config{Plant: linePlant(modbus.RTU, line9600())})
	path := s.Addr(boiler)
	read := func() error {
		h := burrow.NewRTUClientHandler(path)
		h.BaudRate, h.DataBits, h.Parity, h.StopBits, h.SlaveId, h.Timeout = 9600, 8, "N", 1, 1, time.Second
		defer h.Close()
		_, err := burrow.NewClient(h).ReadHoldingRegisters(9, 1)
		return err
	}
	if err := read(); err != nil {
		t.Fatal(err)
	}
	before, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer before.Close()
	s.Drop(boiler)
	if _, err := before.Read(make([]byte, 1)); err == nil {
		t.Error("whoever had it open reads on")
	}
	testkit.Eventually(t, "the line is back", func() bool { return read() == nil })
}

func TestFixedPutsALineAtThePathOfTheMapping(t *testing.T) {
	path := filepath.Join(t.TempDir(), "usb-adapter")
	plant := linePlant(modbus.RTU, line9600())
	plant.Links[0].Address = path
	if err := os.Symlink("/dev/pts/no-such-line", path); err != nil { // of a simulator that was killed
		t.Fatal(err)
	}
	s, err := New(Config{Plant: plant, Fixed: true})
	if err != nil || s.Addr(boiler) != path {
		t.Fatal(s, err)
	}
	if _, err := New(Config{Plant: plant, Fixed: true}); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("a second simulator of the line: %v", err)
	}
	if err := s.links[boiler].listener.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the path outlives the simulator: %v", err)
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := New(Config{Plant: plant, Fixed: true}); err == nil {
		t.Error("what stood at the path was replaced")
	}
}

func TestALineTakesTheTimeOfItsCharacters(t *testing.T) {
	s := start(t, Config{Plant: linePlant(modbus.RTU, line9600())})
	tty, err := os.OpenFile(s.Addr(boiler), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer tty.Close()
	request := rtuFramer{}.pack(nil, frame{0, 1, wire(t, "03 0009 0014")}) // 20 registers
	asked := time.Now()
	if _, err := tty.Write(request); err != nil {
		t.Fatal(err)
	}
	answer := make([]byte, 45)
	if _, err := io.ReadFull(tty, answer); err != nil {
		t.Fatal(err)
	}
	took := time.Since(asked)
	// 8 + 45 characters of 11 bits, and 3.5 of silence between them.
	if least := 113 * 11 * time.Second / 2 / 9600; took < least {
		t.Errorf("%s for what takes %s: % X", took, least, answer)
	}
	if got := hex.EncodeToString(answer[:5]); got != "010328023f" {
		t.Errorf("answer %s", got)
	}
	testkit.Eventually(t, "the exchange is counted", func() bool { return s.Line(boiler).Exchanges == 1 })
	if l := s.Line(boiler); l.Nominal != 45*(11*time.Second/9600) || l.Sent < l.Nominal || l.Busy < 113*11*time.Second/2/9600 || l.Busy > took+time.Second/100 {
		t.Errorf("%+v, the client took %s", l, took)
	}
}

func TestAClockOfALineKeepsSilenceAndOrder(t *testing.T) {
	c := newLineClock(modbus.Serial{Baud: 19200, DataBits: 8, Parity: modbus.OddParity, StopBits: 1})
	if c.char != 11*time.Second/19200 || c.silence != 77*time.Second/2/19200 {
		t.Errorf("char %s, silence %s", c.char, c.silence)
	}
	now := time.Now()
	c.heard(3, now)
	c.heard(5, now.Add(time.Microsecond)) // the line is still busy with the first three
	end := now.Add(8 * c.char)
	if got := c.start(now); !got.Equal(end.Add(c.silence)) {
		t.Errorf("starts %s behind the request, want %s", got.Sub(end), c.silence)
	}
	if got := c.endOf(10, now); !got.Equal(end.Add(c.silence + 10*c.char)) {
		t.Errorf("ends at %s", got.Sub(now))
	}
	if later := end.Add(time.Second); !c.start(later).Equal(later) {
		t.Error("a line that is free holds an answer back")
	}
	if fast := newLineClock(modbus.Serial{Baud: 115200, DataBits: 8, StopBits: 1}); fast.silence != 1750*time.Microsecond || fast.char != 10*time.Second/115200 {
		t.Errorf("char %s, silence %s", fast.char, fast.silence)
	}
	if (Line{}).Error() != 0 || (Line{Nominal: 100, Sent: 101}).Error() != 0.01 {
		t.Error("the error is no ratio")
	}
}
