package modbus

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	gateway "iothub-gateway"
	"iothub-gateway/internal/testkit"
)

// hold keeps the far end of a pty open without answering, and returns the name of the other end.
func hold(t *testing.T) string {
	t.Helper()
	far, name := openPTY(t)
	t.Cleanup(func() { _ = far.Close() })
	return name
}

func TestAPortIsSetAsAskedAndReadBack(t *testing.T) {
	for _, baud := range []int{1200, 9600, 14400, 19200, 28800, 76800, 115200, 250000, 921600} {
		name := hold(t)
		port, err := openSerial(name, Serial{Baud: baud, DataBits: 8, StopBits: 2})
		if err != nil {
			t.Fatalf("%d: %v", baud, err)
		}
		raw, err := port.(serialPort).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		_ = raw.Control(func(fd uintptr) {
			s, err := unix.IoctlGetTermios(int(fd), unix.TCGETS2)
			if err != nil || int(s.Ospeed) != baud || int(s.Ispeed) != baud || s.Cflag&unix.CSTOPB == 0 || s.Cflag&unix.CLOCAL == 0 ||
				s.Lflag != 0 || s.Oflag != 0 || s.Iflag != 0 || s.Cc[unix.VMIN] != 1 {
				t.Errorf("%d: %+v %v", baud, s, err)
			}
		})
		if err := port.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestTheTimesOfALineFollowItsSettings(t *testing.T) {
	for _, c := range []struct {
		s             Serial
		char, silence time.Duration
		text          string
	}{
		{Serial{Baud: 9600, DataBits: 8, StopBits: 1}, 1041666, 4010416, "9600 8N1"},
		{Serial{Baud: 19200, DataBits: 8, Parity: EvenParity, StopBits: 1}, 572916, 2005208, "19200 8E1"},
		{Serial{Baud: 1200, DataBits: 8, Parity: OddParity, StopBits: 1}, 9166666, 32083333, "1200 8O1"},
		{Serial{Baud: 115200, DataBits: 7, Parity: EvenParity, StopBits: 2}, 95486, 1750000, "115200 7E2"},
	} {
		if c.s.CharTime() != c.char || c.s.Silence() != c.silence || c.s.String() != c.text {
			t.Errorf("%s: %d, %d", c.s.String(), c.s.CharTime(), c.s.Silence())
		}
	}
}

func TestTheTimeOnTheLineIsThatOfEveryCharacter(t *testing.T) {
	line := &Serial{Baud: 9600, DataBits: 8, Parity: EvenParity, StopBits: 1}
	for _, c := range []struct {
		cfg  Config
		want time.Duration // of a read of 125 registers: 5 and 252 bytes
	}{
		{Config{Framing: RTU, Serial: line}, 263 * 11 * time.Second / 9600},
		{Config{Framing: ASCII, Serial: &Serial{Baud: 9600, DataBits: 7, Parity: EvenParity, StopBits: 1}}, 528 * 10 * time.Second / 9600},
		{Config{Framing: RTU}, 0},
	} {
		if got := c.cfg.LineTime(5, 252); (got - c.want).Abs() > time.Microsecond {
			t.Errorf("%v, want %v", got, c.want)
		}
	}
}

func TestAPortIsOpenForOneMasterOnly(t *testing.T) {
	name := hold(t)
	s := Serial{Baud: 9600, DataBits: 8, StopBits: 1}
	first, err := openSerial(name, s)
	if err != nil {
		t.Fatal(err)
	}
	if _, err = openSerial(name, s); err == nil || !strings.Contains(err.Error(), "another program has it open") || !strings.Contains(err.Error(), name) {
		t.Errorf("opened twice: %v", err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := openSerial(name, s)
	if err != nil {
		t.Fatalf("not even after it was closed: %v", err)
	}
	_ = again.Close()
}

func TestAPortThatCannotBeOpenedSaysWhatToDo(t *testing.T) {
	s := Serial{Baud: 9600, DataBits: 8, StopBits: 1}
	with := func(change func(*Serial)) Serial { x := s; change(&x); return x }
	for _, c := range []struct {
		path string
		s    Serial
		want string
	}{
		{"/dev/serial/by-id/nothing", s, "is the adapter plugged in?"},
		{"/dev/null", s, "not a serial port"},
		{hold(t), with(func(s *Serial) { s.RS485 = &RS485{} }), "no RS-485 mode"},
	} {
		port, err := openSerial(c.path, c.s)
		if port != nil || err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), c.path) {
			t.Errorf("%v", err)
		}
	}
	for cause, want := range map[error]string{unix.EACCES: "dialout", unix.EBUSY: "another program", unix.ENXIO: "plugged in", unix.EIO: "input/output"} {
		if err := openHint(cause); !strings.Contains(err.Error(), want) {
			t.Errorf("%v", err)
		}
	}
}

func TestTheKernelIsToldTheDirectionOfTheLine(t *testing.T) {
	for _, c := range []struct {
		r    RS485
		want kernelRS485
	}{
		{RS485{}, kernelRS485{flags: 1 | 2}},
		{RS485{Low: true, Receive: true}, kernelRS485{flags: 1 | 4 | 16}},
		{RS485{Before: time.Millisecond, After: 20 * time.Millisecond}, kernelRS485{flags: 1 | 2, before: 1, after: 20}},
	} {
		if got := c.r.kernel(); got != c.want {
			t.Errorf("%+v: %+v", c.r, got)
		}
	}
}

// pollLine polls a unit on a pty every 20 ms.
func pollLine(t *testing.T, p *pty) *rig {
	t.Helper()
	r := runLogged(t, nil, zerolog.New(&p.log), Config{Framing: RTU, Address: p.path, Serial: serial(), Timeout: faultTimeout, Devices: []Device{{
		Name: "d", Unit: 7, Offline: offline(3, time.Second, time.Second), Points: points("d", Holding, 20*time.Millisecond, 100),
	}}})
	r.field = p.f
	return r
}

func TestAnUnpluggedAdapterIsOneErrorAndIsFoundAgain(t *testing.T) { // alone, because it measures
	p := newField().line(t, RTU)
	r := pollLine(t, p)
	testkit.Eventually(t, "a reading", func() bool { return goods(r.got.of("d/100")) > 3 })
	p.unplug()
	testkit.Eventually(t, "the end to be noticed", func() bool { return !r.Stats().Link.Up })
	if s := r.Stats().Link; !strings.Contains(s.LastError, "unplugged") && !strings.Contains(s.LastError, "plugged in") {
		t.Errorf("%q", s.LastError)
	}
	before := cpu(t)
	requests := r.Stats().Link.Requests
	sleep(t.Context(), 500*time.Millisecond)
	if used := cpu(t) - before; used > 150*time.Millisecond { // MB-103
		t.Errorf("%v of CPU in 500 ms", used)
	}
	if n := r.Stats().Link.Requests - requests; n > 0 {
		t.Errorf("%d requests to a port that has gone", n)
	}
	p.plug(t)
	n := goods(r.got.of("d/100"))
	testkit.Eventually(t, "readings of the line that was plugged in again", func() bool { return goods(r.got.of("d/100")) > n+3 })
	if text := p.log.String(); strings.Count(text, "connection ended") != 1 || strings.Contains(text, "cannot connect") || strings.Count(text, `"message":"connected"`) != 2 {
		t.Errorf("the log does not tell it once:\n%s", text)
	}
	bad := len(r.got.of("d/100")) - goods(r.got.of("d/100"))
	if s := r.Stats().Link; bad > 1 || s.Connects != 2 {
		t.Errorf("%d bad readings; %+v", bad, s)
	}
}

// cpu is the time that this process has computed.
func cpu(t *testing.T) time.Duration {
	t.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// MB-104: a descriptor beyond 1023 is a descriptor like any other.
func TestAPortWorksWithManyDescriptorsOpen(t *testing.T) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if limit.Cur < 1200 {
		limit.Cur = min(limit.Max, 4096)
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
			t.Fatal(err)
		}
	}
	for range 550 {
		a, b, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = a.Close(); _ = b.Close() })
	}
	r := pollLine(t, newField().line(t, RTU))
	testkit.Eventually(t, "readings", func() bool { return goods(r.got.of("d/100")) > 3 })
	if v, err := readOne(t, r, "d/100"); err != nil || v != 100 {
		t.Errorf("%d %v", v, err)
	}
}

func TestAPortThatIsNotThereIsToldApartFromASilentUnit(t *testing.T) {
	t.Parallel()
	path := fmt.Sprintf("%s/none", t.TempDir())
	r := runWith(t, nil, Config{Framing: RTU, Address: path, Serial: serial(), Timeout: faultTimeout, Devices: []Device{{
		Name: "d", Unit: 7, Offline: offline(1, time.Second, time.Second), Points: points("d", Holding, 20*time.Millisecond, 100),
	}}})
	testkit.Eventually(t, "the bad reading", func() bool { return len(r.got.of("d/100")) > 0 })
	if s := r.got.of("d/100")[0]; !errors.Is(s.Err, gateway.ErrNoAnswer) || !strings.Contains(s.Err.Error(), "plugged in") {
		t.Errorf("%v", s.Err)
	}
}
