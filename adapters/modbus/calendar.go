package modbus

import (
	"encoding/binary"
	"fmt"
	"time"

	gateway "iothub-gateway"
)

// Layouts of times: as values, without a fraction unless there is one. A device's clock is taken for
// UTC; none of the register formats says otherwise.
const (
	timeText  = "2006-01-02T15:04:05.999Z07:00"
	firstYear = 2000 // of TimeIEC870, whose year has two digits
)

// decodeTime is the time in the registers, which are in the standard order.
func decodeTime(t Type, raw []byte) (gateway.Value, error) {
	at, ok := timeOf(t, raw)
	if !ok || at.Year() < 0 || at.Year() > 9999 {
		return gateway.Value{}, fmt.Errorf("%w: it sent % X, which is no time", gateway.ErrNotAvailable, raw)
	}
	return gateway.TextValue(at.UTC().Format(timeText)), nil
}

func timeOf(t Type, raw []byte) (time.Time, bool) {
	word := func(i int) int { return int(binary.BigEndian.Uint16(raw[2*i:])) }
	const longest = 1 << 42 // seconds; the year 139,000
	switch t {
	case TimeUnix32:
		return time.Unix(int64(binary.BigEndian.Uint32(raw)), 0), true
	case TimeUnix64:
		seconds := int64(binary.BigEndian.Uint64(raw))
		return time.Unix(seconds, 0), seconds > -longest && seconds < longest
	case TimeUnixMilli:
		return time.UnixMilli(int64(binary.BigEndian.Uint64(raw))), true
	case TimeYMDHMS:
		return date([6]int{word(0), word(1), word(2), word(3), word(4), word(5)}, 0)
	}
	invalid := word(2)&0x80 != 0
	at, ok := date([6]int{firstYear + word(0)&0x7F, word(1) >> 8 & 0xF, word(1) & 0x1F, word(2) >> 8 & 0x1F, word(2) & 0x3F, word(3) / 1000}, word(3)%1000)
	return at, ok && !invalid
}

// date is the time of year, month, day, hour, minute and second; false if there is none such.
func date(f [6]int, milli int) (time.Time, bool) {
	at := time.Date(f[0], time.Month(f[1]), f[2], f[3], f[4], f[5], milli*int(time.Millisecond), time.UTC)
	return at, at.Year() == f[0] && int(at.Month()) == f[1] && at.Day() == f[2] && at.Hour() == f[3] && at.Minute() == f[4] && at.Second() == f[5]
}

// encodeTime is decodeTime's inverse. What the registers cannot hold is refused, not rounded.
func encodeTime(t Type, v gateway.Value) ([]byte, error) {
	text, ok := v.Text()
	at, err := time.Parse(time.RFC3339, text)
	if !ok || err != nil {
		return nil, fmt.Errorf("%w: need a time such as 2026-01-31T12:00:00Z, not %s", gateway.ErrRange, v)
	}
	at = at.UTC()
	var raw []byte
	switch t {
	case TimeUnix32:
		raw = binary.BigEndian.AppendUint32(nil, uint32(at.Unix()))
	case TimeUnix64:
		raw = binary.BigEndian.AppendUint64(nil, uint64(at.Unix()))
	case TimeUnixMilli:
		raw = binary.BigEndian.AppendUint64(nil, uint64(at.UnixMilli()))
	case TimeYMDHMS:
		for _, n := range []int{at.Year(), int(at.Month()), at.Day(), at.Hour(), at.Minute(), at.Second()} {
			raw = binary.BigEndian.AppendUint16(raw, uint16(n))
		}
	default:
		for _, n := range []int{
			(at.Year() - firstYear) & 0x7F, int(at.Month())<<8 | at.Day(), at.Hour()<<8 | at.Minute(),
			at.Second()*1000 + at.Nanosecond()/int(time.Millisecond),
		} {
			raw = binary.BigEndian.AppendUint16(raw, uint16(n))
		}
	}
	if back, ok := timeOf(t, raw); !ok || !back.Equal(at) {
		return nil, fmt.Errorf("%w: %s does not fit %s", gateway.ErrRange, v, t)
	}
	return raw, nil
}
