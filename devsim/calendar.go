package devsim

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"time"

	gateway "iothub-gateway"
	"iothub-gateway/adapters/modbus"
)

// isTime tells whether the registers hold a date and a time of day; devices show UTC.
func isTime(t modbus.Type) bool {
	return t.Text() && t != modbus.String && t != modbus.Hex
}

// century is what the two digits of a year in TimeIEC870 count from.
const century = 2000

// timeFields are the registers of the formats that have one for each part of a time.
func timeFields(kind modbus.Type, at time.Time) []int {
	year, month, day := at.Date()
	hour, minute, second := at.Clock()
	if kind == modbus.TimeYMDHMS {
		return []int{year, int(month), day, hour, minute, second}
	}
	return []int{year - century, int(month)<<8 + day, hour<<8 + minute, 1000*second + at.Nanosecond()/1e6}
}

// timeBytes is a time in the bytes of a type, the most significant first.
func timeBytes(kind modbus.Type, at time.Time) (b []byte) {
	at = at.UTC()
	switch kind {
	case modbus.TimeUnix32:
		return binary.BigEndian.AppendUint32(nil, uint32(at.Unix()))
	case modbus.TimeUnix64:
		return binary.BigEndian.AppendUint64(nil, uint64(at.Unix()))
	case modbus.TimeUnixMilli:
		return binary.BigEndian.AppendUint64(nil, uint64(at.UnixMilli()))
	}
	for _, field := range timeFields(kind, at) {
		b = binary.BigEndian.AppendUint16(b, uint16(field))
	}
	return b
}

// timeIn is the inverse of timeBytes; false if the bytes are no time.
func timeIn(kind modbus.Type, b []byte) (at time.Time, ok bool) {
	switch kind {
	case modbus.TimeUnix32:
		return time.Unix(int64(binary.BigEndian.Uint32(b)), 0).UTC(), true
	case modbus.TimeUnix64:
		at = time.Unix(int64(binary.BigEndian.Uint64(b)), 0).UTC()
	case modbus.TimeUnixMilli:
		at = time.UnixMilli(int64(binary.BigEndian.Uint64(b))).UTC()
	case modbus.TimeYMDHMS:
		f := fieldsIn(b)
		at = time.Date(f[0], time.Month(f[1]), f[2], f[3], f[4], f[5], 0, time.UTC)
	default: // the highest bits of day and minute say the day of the week and that the clock is not set
		f := fieldsIn(b)
		at = time.Date(century+f[0]&0x7F, time.Month(f[1]>>8&0xF), f[1]&0x1F, f[2]>>8&0x1F, f[2]&0x3F, f[3]/1000, f[3]%1000*1e6, time.UTC)
		return at, f[2]&0x80 == 0 && f[1]&0xF1F == timeFields(kind, at)[1] && f[2]&0x1F3F == timeFields(kind, at)[2]
	}
	return at, at.Year() >= 0 && at.Year() <= 9999 && string(timeBytes(kind, at)) == string(b)
}

func fieldsIn(b []byte) (f []int) {
	for ; len(b) > 1; b = b[2:] {
		f = append(f, int(binary.BigEndian.Uint16(b)))
	}
	return f
}

// fixedBytes are what a text, octets or a clock start with: a serial number of the point's own as long as
// fits, its seed, and the day on which the plant was commissioned.
func (p *point) fixedBytes() []byte {
	switch {
	case isTime(p.at.Type):
		return timeBytes(p.at.Type, commissioned.time())
	case p.at.Type == modbus.Hex:
		b := make([]byte, p.at.Length)
		for i := range b {
			b[i] = byte(mix(p.signal.seed + uint64(i)))
		}
		return b
	}
	text := fmt.Sprintf("SIM-%08X", uint32(p.signal.seed))
	return []byte(text[:min(len(text), p.at.Length)])
}

func (p *point) storeBytes(b []byte) {
	words := make([]uint16, len(p.cells))
	p.layout.packBytes(b, words)
	p.store(words)
}

// text is the value of a point that is a text by itself. Its error wraps gateway.ErrNotAvailable.
func (p *point) text(words []uint16) (gateway.Value, error) {
	b := p.layout.unpackBytes(words)
	switch {
	case p.at.Type == modbus.String:
		return gateway.TextValue(textIn(b[:p.at.Length])), nil
	case p.at.Type == modbus.Hex:
		return gateway.TextValue(hex.EncodeToString(b[:p.at.Length])), nil
	}
	at, ok := timeIn(p.at.Type, b)
	if !ok {
		return gateway.Value{}, p.unavailable(fmt.Sprintf("% X is no time", b))
	}
	return gateway.TextValue(at.Format("2006-01-02T15:04:05.999Z07:00")), nil
}

// textBytes is the inverse of text. Its error wraps gateway.ErrRange.
func (p *point) textBytes(v gateway.Value) ([]byte, error) {
	text, ok := v.Text()
	switch {
	case isTime(p.at.Type):
		at, err := time.Parse(time.RFC3339, text)
		b := timeBytes(p.at.Type, at)
		if back, fits := timeIn(p.at.Type, b); !ok || err != nil || !fits || !back.Equal(at) {
			return nil, p.refuse(v, "needs a time that the registers can hold, such as 2026-01-31T12:00:00Z")
		}
		return b, nil
	case p.at.Type == modbus.Hex:
		b, err := hex.DecodeString(text)
		if !ok || err != nil || len(b) != p.at.Length {
			return nil, p.refuse(v, fmt.Sprintf("needs %d hexadecimal digits", 2*p.at.Length))
		}
		return b, nil
	case !ok || len(text) > p.at.Length:
		return nil, p.refuse(v, fmt.Sprintf("needs a text of up to %d bytes", p.at.Length))
	}
	return []byte(text), nil
}
