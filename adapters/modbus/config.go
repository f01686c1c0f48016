package modbus

import (
	"time"

	gateway "iothub-gateway"
)

// Limits of one request (Modbus application protocol, MB-2).
const (
	MaxReadRegisters  = 125
	MaxReadBits       = 2000
	MaxWriteRegisters = 123
)

// Device is one field device: a unit of the link with its points. One unit may serve several Devices.
type Device struct {
	Name string
	Unit uint8
	// Gap is how many registers (or bits) nobody asked for may be read to join two points in one
	// request.
	Gap int
	// MaxRead and MaxWrite limit the registers of one request: 1..125 and 1..123.
	MaxRead, MaxWrite int
	// Even makes every register request start at an even address and have an even length.
	Even    bool
	Offline Offline
	Points  []Point
}

// Offline says when a device counts as offline and how it is tried then.
type Offline struct {
	After              int           // failed poll cycles in a row, >= 1
	RetryMin, RetryMax time.Duration // the probe interval doubles from the first to the second
}

// Table is one of the four address spaces of a unit.
type Table uint8

// The tables, with the function code that reads each.
const (
	Coil     Table = 1 // FC 1, bits, writable
	Discrete Table = 2 // FC 2, bits
	Holding  Table = 3 // FC 3, registers, writable
	Input    Table = 4 // FC 4, registers
)

// String is the word the mapping uses: coil, discrete, holding or input.
func (t Table) String() string {
	switch t {
	case Coil:
		return "coil"
	case Discrete:
		return "discrete"
	case Holding:
		return "holding"
	case Input:
		return "input"
	}
	return "unknown table"
}

// Bits tells whether the table holds single bits rather than 16-bit registers.
func (t Table) Bits() bool { return t == Coil || t == Discrete }

// WholeRegister is the Bit of a point that is not a bit of a register.
const WholeRegister = -1

// Point is the southbound half of a mapping entry: where a value stands and how it is read.
type Point struct {
	ID      gateway.PointID
	Table   Table
	Address uint16 // protocol address, 0-based, as on the wire (MB-31)
	Bit     int    // 0 (least significant) to 15, or WholeRegister
	Type    Type
	Length  int // bytes of a String or Hex
	// Pad fills a String that is written and shorter than Length: 0, or a space.
	Pad byte
	// Order is the order of a value's bytes on the wire: "abcd", "cdab", "badc" or "dcba", which apply to
	// every width, or a permutation of as many letters as the value has bytes, such as "abefcdgh" (MB-36).
	Order string
	// Factor is the protocol address of a register of the same table that holds n of a further factor
	// 10^n, -10..10 (MB-41). It is read in one request with the value. Nil: there is none.
	Factor *uint16
	// Value = raw * Scale + Offset, with the decimals that Scale and Offset have. Scale is not 0;
	// 1 and 0 leave the raw value as it is.
	Scale, Offset float64
	// Linear maps a raw range to an engineering range; nil: Scale and Offset apply.
	Linear *Linear
	// Enum maps raw integers to words, in the mapping's order; the point's value is then a Text.
	Enum []EnumWord
	// Flags names bits of an integer; the point's value is then an Object of booleans.
	Flags []Flag
	// NotAvailable are raw values that mean "no value"; compared with the bits as read, in Order.
	NotAvailable []uint64
	// WriteRate is the most writes a second of the point, such as 1/60; 0 for no limit.
	WriteRate float64
	// Poll is the period; 0 reads once after each start of the gateway.
	Poll     time.Duration
	Writable bool
}

// Linear maps raw values From[0]..From[1] to To[0]..To[1] on a straight line.
type Linear struct{ From, To [2]float64 }

// EnumWord is one word of an enum.
type EnumWord struct {
	Raw  int64
	Word string
}

// Flag is one named bit of a status word.
type Flag struct {
	Bit  int // 0 is the least significant
	Name string
}

// Registers is how many registers (of a bit table: bits) the point takes.
func (p Point) Registers() int {
	if p.Type == String || p.Type == Hex {
		return (p.Length + 1) / 2
	}
	return p.Type.Registers()
}
