package modbus

import (
	"crypto/tls"
	"time"
)

// Config is one link: a wire or socket with every device that is reached through it. It is checked
// by whoever makes it (package mapping); New trusts it.
type Config struct {
	Name string // as the mapping calls it, or the endpoint
	// Address is the host:port of a TCP server, or the path of a serial port such as
	// /dev/serial/by-id/usb-FTDI_FT232R_A50285BI-if00-port0.
	Address string
	Framing Framing
	Serial  *Serial // how the serial port is set; nil: Address is a TCP server
	TLS     *TLS    // Modbus/TCP Security; nil: plain TCP
	// Timeout bounds connecting, and one request with its answer.
	Timeout time.Duration
	// Pause is the least time between the end of an exchange and the next request (MB-23), and
	// PauseAfterConnect between connecting and the first one (MB-15).
	Pause, PauseAfterConnect time.Duration
	// CloseAfterPoll gives the connection up whenever nothing is due, for devices that serve one
	// client at a time (MB-14).
	CloseAfterPoll bool
	// Retries is how often a read that was not answered is tried again within its poll cycle
	// (MB-82). A unit that was silent the last time gets none.
	Retries int
	// ReadOnly refuses every function code that could change a device, whatever the points say (MB-19).
	ReadOnly bool
	// WriteRate is the most writes a second of the link; 0 for no limit. A write waits for its turn.
	WriteRate float64
	// MaxConnections is how many connections the server may be asked through at the same time; its
	// units are spread over them (MB-14). 0 and 1 mean one.
	MaxConnections int
	// IgnoreTransactionID is for MBAP devices that do not echo it (MB-10): answers are then told
	// apart as on a serial line, by silence.
	IgnoreTransactionID bool
	// KeepAlive makes a read of every unit that has not been asked for so long, for couplers and
	// drives that switch off when telegrams stop (MB-76); 0 for none.
	KeepAlive time.Duration
	Devices   []Device
}

// Framing is how requests and answers are packed into bytes.
type Framing uint8

// The framings.
const (
	MBAP  Framing = iota // with the header of Modbus/TCP (MB-9)
	RTU                  // binary with a CRC (MB-1)
	ASCII                // hexadecimal lines with an LRC (MB-29)
)

// String is MBAP, RTU or ASCII.
func (f Framing) String() string { return [...]string{"MBAP", "RTU", "ASCII"}[f] }

// Parity is the parity bit of a serial character.
type Parity uint8

// The parities.
const (
	NoParity Parity = iota
	EvenParity
	OddParity
)

// String is the word the mapping uses: none, even or odd.
func (p Parity) String() string { return [...]string{"none", "even", "odd"}[p] }

// Serial is how a serial port is set (MB-20).
type Serial struct {
	Baud     int // bit/s, 50..4000000
	DataBits int // 7 or 8
	Parity   Parity
	StopBits int    // 1 or 2
	RS485    *RS485 // the kernel switches the driver's direction; nil: the adapter does so by itself
}

// RS485 is how the kernel drives RTS as the direction of an RS-485 transceiver (MB-27).
type RS485 struct {
	// Low makes RTS low while sending and high otherwise, instead of the other way round.
	Low bool
	// Before and After are how long the direction is held before the first and after the last bit,
	// in whole milliseconds.
	Before, After time.Duration
	// Receive keeps the receiver on while sending: the port then hears its own requests.
	Receive bool
}

// TLS is what Modbus/TCP Security needs (MB-18).
type TLS struct {
	// Trust, Certificate and PrivateKey refer to PEM texts as the mapping does ("file:PATH",
	// "credential:NAME"): the authorities that sign the device's certificate, our certificate, and
	// its key. "" is not given.
	Trust, Certificate, PrivateKey string
	// Client is made of them by whoever runs the link. Nil means the system's authorities and no
	// certificate of ours. The server's name is that of Config.Address unless it is set.
	Client *tls.Config
}

// CharTime is how long one character takes on the line, start, parity and stop bits included.
func (s Serial) CharTime() time.Duration {
	bits := 1 + s.DataBits + s.StopBits
	if s.Parity != NoParity {
		bits++
	}
	return time.Duration(bits) * time.Second / time.Duration(s.Baud)
}

// Silence is t3.5, the least silence between two frames: 3.5 characters of 11 bits, and 1.75 ms above
// 19 200 bit/s (MB-21).
func (s Serial) Silence() time.Duration {
	if s.Baud > 19200 {
		return 1750 * time.Microsecond
	}
	return 77 * time.Second / time.Duration(2*s.Baud)
}

// LineTime is how long the characters of a request and of its answer take on a serial line, PDUs of so
// many bytes; 0 if the link is no serial port. The silence around them and the device's own time are not
// in it.
func (c Config) LineTime(request, answer int) time.Duration {
	if c.Serial == nil {
		return 0
	}
	chars := request + 3 + answer + 3 // unit and CRC
	if c.Framing == ASCII {
		chars = 2*(request+2) + 3 + 2*(answer+2) + 3 // in hexadecimal; colon, unit, LRC, CR LF
	}
	return time.Duration(chars) * c.Serial.CharTime()
}
