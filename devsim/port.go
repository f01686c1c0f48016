package devsim

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// port is a serial port that needs no hardware: a pseudo-terminal behind a path that stays the same. As a
// listener it has one connection at a time: the line. Closing that one pulls the adapter out, accepting the
// next plugs it in again.
type port struct {
	path string
	dir  string // made for path; "" if it is the mapping's own

	mu     sync.Mutex // guards the fields below
	line   *line      // plugged in and not accepted yet
	closed bool

	free chan struct{} // capacity 1: the line that was accepted is closed, or the port is
}

// newPort plugs a line in at path, or in a directory of its own if that is "".
func newPort(path string) (*port, error) {
	p := &port{path: path, free: make(chan struct{}, 1)}
	if path == "" {
		dir, err := os.MkdirTemp("", "devsim-")
		if err != nil {
			return nil, err
		}
		p.dir, p.path = dir, filepath.Join(dir, "tty")
	}
	if err := p.plug(); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}

// plug makes a new line and puts it at the path. What stands there already is left alone, unless it is the
// way to a pseudo-terminal: one of a simulator that was killed.
func (p *port) plug() error {
	if old, err := os.Readlink(p.path); err == nil && strings.HasPrefix(old, pts) {
		if _, err := os.Stat(old); err == nil && p.dir == "" {
			return fmt.Errorf("%s is a pseudo-terminal that is in use: end what simulates it", p.path)
		}
		if err := os.Remove(p.path); err != nil {
			return err
		}
	}
	file, name, err := openPseudoTerminal()
	if err != nil {
		return err
	}
	if err := os.Symlink(name, p.path); err != nil {
		return errors.Join(fmt.Errorf("%w; simulated serial ports stand at free paths of existing directories", err), file.Close())
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.line = &line{File: file, port: p, name: name, gone: make(chan struct{})}
	return nil
}

// Accept returns the line, the next one once that is closed, or net.ErrClosed.
func (p *port) Accept() (net.Conn, error) {
	p.mu.Lock()
	first := p.line
	p.line = nil
	p.mu.Unlock()
	if first != nil {
		return first, nil
	}
	<-p.free
	p.mu.Lock()
	closed := p.closed
	p.mu.Unlock()
	if closed {
		return nil, net.ErrClosed
	}
	if err := p.plug(); err != nil {
		p.signal()
		return nil, err
	}
	return p.Accept()
}

// Close ends Accept, and takes the path away. The line that was accepted is closed by whoever has it.
func (p *port) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return net.ErrClosed
	}
	p.closed = true
	var errs []error
	if p.line != nil {
		p.line.pull()
		errs = append(errs, p.line.File.Close())
	}
	p.signal()
	if p.dir != "" {
		errs = append(errs, os.RemoveAll(p.dir))
	}
	return errors.Join(errs...)
}

func (p *port) signal() {
	select {
	case p.free <- struct{}{}:
	default:
	}
}

// Addr is the path.
func (p *port) Addr() net.Addr { return serialPath(p.path) }

// serialPath is the address of a serial port.
type serialPath string

func (serialPath) Network() string  { return "serial" }
func (s serialPath) String() string { return string(s) }

// line is the devices' end of a pseudo-terminal. Reading waits while nobody has the other one open.
type line struct {
	*os.File
	port *port
	name string
	once sync.Once
	gone chan struct{} // closed when the line is
}

// openCheck is how often it is looked whether somebody has opened the port.
const openCheck = 2 * time.Millisecond

func (l *line) Read(b []byte) (int, error) {
	for {
		n, err := l.File.Read(b)
		if !errors.Is(err, syscall.EIO) {
			return n, err
		}
		select {
		case <-time.After(openCheck):
		case <-l.gone:
			return 0, os.ErrClosed
		}
	}
}

// Write loses what nobody hears.
func (l *line) Write(b []byte) (int, error) {
	n, err := l.File.Write(b)
	if errors.Is(err, syscall.EIO) {
		return len(b), nil
	}
	return n, err
}

// Close pulls the line out: the path is gone, and whoever has it open reads its end.
func (l *line) Close() error {
	err := error(os.ErrClosed)
	l.once.Do(func() {
		close(l.gone)
		l.pull()
		err = l.File.Close()
		l.port.signal()
	})
	return err
}

// pull takes the path away if it still leads here.
func (l *line) pull() {
	if at, err := os.Readlink(l.port.path); err == nil && at == l.name {
		_ = os.Remove(l.port.path) // a path that stays leads nowhere
	}
}

func (l *line) LocalAddr() net.Addr  { return serialPath(l.port.path) }
func (l *line) RemoteAddr() net.Addr { return serialPath(l.name) }

// pts is where the kernel puts pseudo-terminals.
const pts = "/dev/pts/"

// openPseudoTerminal makes one in raw mode: the end that stays here, and the name of the other.
func openPseudoTerminal() (file *os.File, name string, err error) {
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, "", &fs.PathError{Op: "open", Path: "/dev/ptmx", Err: err}
	}
	err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	if err == nil {
		raw := unix.Termios{Cflag: unix.CS8 | unix.CREAD | unix.CLOCAL | unix.B9600}
		raw.Cc[unix.VMIN] = 1
		err = unix.IoctlSetTermios(fd, unix.TCSETS, &raw) // of the other end
	}
	number := 0
	if err == nil {
		number, err = unix.IoctlGetInt(fd, unix.TIOCGPTN)
	}
	if err != nil {
		return nil, "", errors.Join(&fs.PathError{Op: "set up", Path: "/dev/ptmx", Err: err}, unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), "/dev/ptmx"), fmt.Sprintf("%s%d", pts, number), nil
}
