package modbus

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// serialPort is an open serial port. It is an os.File, whose reads and writes have deadlines and end
// when it is closed or unplugged (MB-114).
type serialPort struct{ *os.File }

// openSerial opens a port for this process alone and sets it; what the driver did not take is an error
// that names it (MB-27, MB-28).
func openSerial(path string, s Serial) (stream, error) {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: openHint(err)}
	}
	if err := setUp(fd, s); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return serialPort{os.NewFile(uintptr(fd), path)}, nil
}

// openHint says what to do about an error of opening a port.
func openHint(err error) error {
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENXIO), errors.Is(err, unix.ENODEV):
		return fmt.Errorf("%w; is the adapter plugged in?", err)
	case errors.Is(err, unix.EACCES):
		return fmt.Errorf("%w; the service's user must be in the group that owns it, usually dialout", err)
	case errors.Is(err, unix.EBUSY):
		return errInUse
	}
	return err
}

var errInUse = errors.New("another program has it open; end that one, two masters garble each other's frames")

func setUp(fd int, s Serial) error {
	if err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB); err != nil { // also keeps out what root may open
		return errInUse
	}
	if _, err := unix.IoctlGetTermios(fd, unix.TCGETS2); err != nil {
		return errors.New("not a serial port")
	}
	if err := unix.IoctlSetInt(fd, unix.TIOCEXCL, 0); err != nil {
		return fmt.Errorf("exclusive use: %w", err)
	}
	if err := setTermios(fd, s); err != nil {
		return err
	}
	if s.RS485 != nil {
		if err := setRS485(fd, *s.RS485); err != nil {
			return err
		}
	}
	return unix.IoctlSetInt(fd, unix.TCFLSH, unix.TCIOFLUSH)
}

// setTermios sets raw mode, rate and character, and compares with what the driver made of it.
func setTermios(fd int, s Serial) error {
	want := unix.Termios{Cflag: unix.CREAD | unix.CLOCAL | unix.BOTHER | unix.BOTHER<<16, Ispeed: uint32(s.Baud), Ospeed: uint32(s.Baud)}
	want.Cc[unix.VMIN] = 1
	want.Cflag |= unix.CS8
	if s.DataBits == 7 {
		want.Cflag = want.Cflag&^unix.CSIZE | unix.CS7
	}
	if s.StopBits == 2 {
		want.Cflag |= unix.CSTOPB
	}
	switch s.Parity {
	case EvenParity:
		want.Cflag |= unix.PARENB
	case OddParity:
		want.Cflag |= unix.PARENB | unix.PARODD
	}
	if s.Parity != NoParity {
		want.Iflag |= unix.INPCK // a character with a wrong parity becomes 0, and the CRC fails
	}
	if err := unix.IoctlSetTermios(fd, unix.TCSETS2, &want); err != nil {
		return fmt.Errorf("setting %s: %w", s.String(), err)
	}
	got, err := unix.IoctlGetTermios(fd, unix.TCGETS2)
	if err != nil {
		return err
	}
	// A pseudo-terminal has no characters on a line: it takes any rate, and of parity and data bits
	// nothing but 8 and none.
	character := uint32(unix.CSIZE | unix.PARENB | unix.PARODD | unix.CSTOPB)
	if pseudo(fd) {
		character = 0
	}
	off := int64(got.Ospeed) - int64(s.Baud)
	if want.Cflag&character != got.Cflag&character || max(off, -off)*50 > int64(s.Baud) {
		return fmt.Errorf("the port cannot do %s; its driver made %d bit/s of it, flags %#o", s.String(), got.Ospeed, got.Cflag&unix.CSIZE|got.Cflag&character)
	}
	return nil
}

// pseudo tells whether the port is the far end of a pseudo-terminal (majors 136 to 143 of Linux).
func pseudo(fd int) bool {
	var s unix.Stat_t
	if err := unix.Fstat(fd, &s); err != nil {
		return false
	}
	major := unix.Major(s.Rdev)
	return major >= 136 && major <= 143
}

// String is the settings as people write them, such as "9600 8N1".
func (s Serial) String() string {
	return fmt.Sprintf("%d %d%c%d", s.Baud, s.DataBits, "NEO"[s.Parity], s.StopBits)
}

// The flags of the kernel's struct serial_rs485.
const (
	rs485Enabled      = 1 << 0
	rs485RTSOnSend    = 1 << 1
	rs485RTSAfterSend = 1 << 2
	rs485RxDuringTx   = 1 << 4
)

// kernelRS485 is the kernel's struct serial_rs485.
type kernelRS485 struct {
	flags, before, after uint32 // the delays in milliseconds
	_                    [5]uint32
}

func (r RS485) kernel() kernelRS485 {
	k := kernelRS485{
		flags: rs485Enabled | rs485RTSOnSend, before: uint32(r.Before / time.Millisecond), after: uint32(r.After / time.Millisecond),
	}
	if r.Low {
		k.flags = rs485Enabled | rs485RTSAfterSend
	}
	if r.Receive {
		k.flags |= rs485RxDuringTx
	}
	return k
}

// setRS485 switches the kernel's RS-485 mode on and compares with what the driver made of it (MB-27).
func setRS485(fd int, r RS485) error {
	want := r.kernel()
	got := want
	for _, request := range []uintptr{unix.TIOCSRS485, unix.TIOCGRS485} {
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(unsafe.Pointer(&got))); errno != 0 {
			return fmt.Errorf("the driver has no RS-485 mode (%w); use an adapter that switches the direction by itself, and drop rs485", errno)
		}
	}
	got.flags = got.flags&^rs485RxDuringTx | want.flags&rs485RxDuringTx // an echo does no harm
	if got != want {
		return fmt.Errorf("the driver does not take these rs485 settings: it made flags %#x, %d ms, %d ms of flags %#x, %d ms, %d ms",
			got.flags, got.before, got.after, want.flags, want.before, want.after)
	}
	return nil
}

// gone puts the end of a port in words: a port never ends but by being pulled out.
func gone(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, syscall.EIO) || errors.Is(err, syscall.ENXIO) || errors.Is(err, syscall.ENODEV) {
		return fmt.Errorf("the serial port has gone, was the adapter unplugged? %w", err)
	}
	return err
}

// Close gives the port back at once: what was not sent yet would hold it up, and the right to it alone
// would outlive us if somebody else has it open.
func (p serialPort) Close() error {
	if raw, err := p.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) {
			_ = unix.IoctlSetInt(int(fd), unix.TCFLSH, unix.TCIOFLUSH)
			_ = unix.IoctlSetInt(int(fd), unix.TIOCNXCL, 0)
		})
	}
	return p.File.Close()
}

func (p serialPort) Read(b []byte) (int, error) {
	n, err := p.File.Read(b)
	return n, gone(err)
}

func (p serialPort) Write(b []byte) (int, error) {
	n, err := p.File.Write(b)
	return n, gone(err)
}
