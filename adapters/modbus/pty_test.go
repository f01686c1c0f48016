package modbus

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"iothub-gateway/internal/testkit"
)

// pty is a serial line without wires: the adapter opens path, the field has the other end. path is a
// link in the way of /dev/serial/by-id, so that another line can be plugged in behind it.
type pty struct {
	path string
	f    *field
	end  *ptyEnd
	log  testkit.Log // of the adapter, if a test asks for it
}

// ptyEnd is the field's end. Reading waits while nobody has the other one open.
type ptyEnd struct {
	*os.File
	once   sync.Once
	closed chan struct{}
}

func (e *ptyEnd) Read(b []byte) (int, error) {
	for {
		n, err := e.File.Read(b)
		if !errors.Is(err, syscall.EIO) {
			return n, err
		}
		select {
		case <-time.After(2 * time.Millisecond):
		case <-e.closed:
			return 0, os.ErrClosed
		}
	}
}

func (e *ptyEnd) Close() error {
	e.once.Do(func() { close(e.closed) })
	return e.File.Close()
}

// line makes a pty on which f answers until the test ends.
func (f *field) line(t *testing.T, framing Framing) *pty {
	t.Helper()
	f.framing = framing
	p := &pty{path: filepath.Join(t.TempDir(), "usb-adapter"), f: f}
	p.plug(t)
	t.Cleanup(func() {
		p.unplug()
		f.serving.Wait()
	})
	return p
}

// plug puts a new line behind the path.
func (p *pty) plug(t *testing.T) {
	t.Helper()
	far, name := openPTY(t)
	p.end = &ptyEnd{File: far, closed: make(chan struct{})}
	if err := os.Symlink(name, p.path); err != nil {
		t.Fatal(err)
	}
	end, before := p.end, p.f.conns()
	p.f.serving.Go(func() { p.f.serve(end) })
	testkit.Eventually(t, "the field to listen", func() bool { return p.f.conns() > before })
}

// unplug pulls the line out: whoever has it open sees its end, and the path is gone.
func (p *pty) unplug() {
	_ = os.Remove(p.path)
	_ = p.end.Close()
}

// openPTY makes a pseudo-terminal: the end of the field, and the name of the adapter's.
func openPTY(t *testing.T) (far *os.File, name string) {
	t.Helper()
	far, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := far.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var number int
	var cause error
	err = raw.Control(func(fd uintptr) {
		if cause = unix.IoctlSetPointerInt(int(fd), unix.TIOCSPTLCK, 0); cause == nil {
			number, cause = unix.IoctlGetInt(int(fd), unix.TIOCGPTN)
		}
	})
	if err = errors.Join(err, cause); err != nil {
		t.Fatal(err)
	}
	return far, fmt.Sprintf("/dev/pts/%d", number)
}

// serial is how a pty is opened in tests: no parity, as a pty has none, and a rate whose silence is the
// shortest.
func serial() *Serial { return &Serial{Baud: 115200, DataBits: 8, StopBits: 1} }
