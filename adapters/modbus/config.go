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

// Type is how registers become a value.
type Type uint8

// The types. Bool is a coil, a discrete input, or (with Point.Bit) a bit of a register.
const (
	Bool Type = iota
	Int16
	Uint16
	Int32
	Uint32
	Int64
	Uint64
	Float32
	Float64
	String
)

// String is the word the mapping uses, such as "int16".
func (t Type) String() string {
	return [...]string{"bool", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64", "string"}[t]
}

// Registers is how many registers a value of the type takes; for String it depends on the length,
// and 0 is returned; a Bool of a register takes 1.
func (t Type) Registers() int {
	return [...]int{1, 1, 1, 2, 2, 4, 4, 2, 4, 0}[t]
}

// WholeRegister is the Bit of a point that is not a bit of a register.
const WholeRegister = -1

// Point is the southbound half of a mapping entry: where a value stands and how it is read.
type Point struct {
	ID      gateway.PointID
	Table   Table
	Address uint16 // protocol address, 0-based, as on the wire (MB-31)
	Bit     int    // 0 (least significant) to 15, or WholeRegister
	Type    Type
	Length  int // bytes of a String
	// Order is the order of a value's bytes on the wire: "abcd", "cdab", "badc", "dcba", or for 64
	// bits also a permutation of "abcdefgh" (MB-36). The four-letter names apply to every width.
	Order string
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
	if p.Type == String {
		return (p.Length + 1) / 2
	}
	return p.Type.Registers()
}
