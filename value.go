package gateway

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"strconv"
)

// Kind is the type of a Value.
type Kind uint8

// The kinds of a Value.
const (
	Absent Kind = iota // the zero Value: no reading
	Bool
	Int   // int64
	Uint  // uint64
	Float // float64, never NaN or infinite in a good Sample (MB-40)
	Text
	Object // a JSON object as text, such as the flags of a status word
)

// Value is one reading or one value to write. It is comparable: two Values are equal if kind and
// content are.
type Value struct {
	kind Kind
	bits uint64
	text string
}

// BoolValue makes a Bool.
func BoolValue(b bool) Value {
	if b {
		return Value{kind: Bool, bits: 1}
	}
	return Value{kind: Bool}
}

// IntValue makes an Int.
func IntValue(i int64) Value { return Value{kind: Int, bits: uint64(i)} }

// UintValue makes a Uint.
func UintValue(u uint64) Value { return Value{kind: Uint, bits: u} }

// FloatValue makes a Float.
func FloatValue(f float64) Value { return Value{kind: Float, bits: math.Float64bits(f)} }

// TextValue makes a Text.
func TextValue(s string) Value { return Value{kind: Text, text: s} }

// ObjectValue makes an Object of text that is a JSON object.
func ObjectValue(object string) Value { return Value{kind: Object, text: object} }

// Kind tells the type.
func (v Value) Kind() Kind { return v.kind }

// Bool is the content of a Bool.
func (v Value) Bool() (b, ok bool) { return v.bits != 0, v.kind == Bool }

// Int is the content of an Int, or of a Uint that fits.
func (v Value) Int() (i int64, ok bool) {
	switch v.kind {
	case Int:
		return int64(v.bits), true
	case Uint:
		return int64(v.bits), v.bits <= math.MaxInt64
	}
	return 0, false
}

// Uint is the content of a Uint, or of an Int that is not negative.
func (v Value) Uint() (u uint64, ok bool) {
	switch v.kind {
	case Uint:
		return v.bits, true
	case Int:
		return v.bits, int64(v.bits) >= 0
	}
	return 0, false
}

// Number is the content of an Int, Uint or Float as a float64 (integers beyond 2^53 are rounded).
func (v Value) Number() (f float64, ok bool) {
	switch v.kind {
	case Int:
		return float64(int64(v.bits)), true
	case Uint:
		return float64(v.bits), true
	case Float:
		return math.Float64frombits(v.bits), true
	}
	return 0, false
}

// Text is the content of a Text.
func (v Value) Text() (s string, ok bool) { return v.text, v.kind == Text }

// String is the value as a person reads it; an absent one is "-".
func (v Value) String() string {
	if v.kind == Text {
		return v.text
	}
	if v.kind == Absent {
		return "-"
	}
	return string(v.AppendJSON(nil))
}

// AppendJSON appends the value as JSON to b. Absent, NaN and infinities are null.
func (v Value) AppendJSON(b []byte) []byte {
	switch v.kind {
	case Bool:
		return strconv.AppendBool(b, v.bits != 0)
	case Int:
		return strconv.AppendInt(b, int64(v.bits), 10)
	case Uint:
		return strconv.AppendUint(b, v.bits, 10)
	case Float:
		if f := math.Float64frombits(v.bits); !math.IsNaN(f) && !math.IsInf(f, 0) {
			return appendFloat(b, f)
		}
	case Text:
		quoted, err := json.Marshal(v.text)
		if err == nil {
			return append(b, quoted...)
		}
	case Object:
		return append(b, v.text...)
	}
	return append(b, "null"...)
}

// appendFloat writes the shortest decimal that reads back as f, without an exponent where a person
// would not use one.
func appendFloat(b []byte, f float64) []byte {
	format := byte('f')
	if a := math.Abs(f); a != 0 && (a < 1e-6 || a >= 1e21) {
		format = 'e'
	}
	return strconv.AppendFloat(b, f, format, -1, 64)
}

// MarshalJSON is AppendJSON.
func (v Value) MarshalJSON() ([]byte, error) { return v.AppendJSON(nil), nil }

// ParseValue reads a JSON scalar: true and false are Bool, a number without fraction or exponent
// that fits is Int or Uint, any other number Float, a string Text. null, arrays and objects are
// refused with an error that wraps ErrRange.
func ParseValue(data []byte) (Value, error) {
	var decoded any
	if err := json.Unmarshal(data, &decoded); err != nil {
		return Value{}, fmt.Errorf("%w: %q is not JSON", ErrRange, data)
	}
	switch x := decoded.(type) {
	case bool:
		return BoolValue(x), nil
	case string:
		return TextValue(x), nil
	case float64:
		text := string(bytes.TrimSpace(data))
		if i, err := strconv.ParseInt(text, 10, 64); err == nil {
			return IntValue(i), nil
		}
		if u, err := strconv.ParseUint(text, 10, 64); err == nil {
			return UintValue(u), nil
		}
		return FloatValue(x), nil
	}
	return Value{}, fmt.Errorf("%w: need a number, true, false or a text, not %s", ErrRange, data)
}
