package coap

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"

	"github.com/fxamacker/cbor/v2"

	gateway "iothub-gateway"
)

// record is one SenML record as it was sent (RFC 8428 section 4). A base field that is not there is
// nil and stays what an earlier record made it.
type record struct {
	baseName            *string
	baseTime, baseValue *gateway.Value
	name                string
	time                float64
	value               gateway.Value // Absent: the record only sets bases, or only has a sum
	values              int           // how many value fields it has
}

// measurement is a resolved record (RFC 8428 section 4.6).
type measurement struct {
	name    string // base name and name
	own     string // the name alone
	value   gateway.Value
	seconds float64 // base time and time
}

// resolve applies the base fields: each holds from its record on.
func resolve(records []record) ([]measurement, error) {
	var (
		name  string
		base  gateway.Value
		start float64
	)
	measurements := make([]measurement, 0, len(records))
	for _, r := range records {
		if r.baseName != nil {
			name = *r.baseName
		}
		if r.baseTime != nil {
			start, _ = r.baseTime.Number()
		}
		if r.baseValue != nil {
			base = *r.baseValue
		}
		switch {
		case r.values > 1:
			return nil, errors.New("senml: a record with two values")
		case r.values == 0:
			continue
		}
		measurements = append(measurements, measurement{
			name:    name + r.name,
			own:     r.name,
			value:   sum(base, r.value),
			seconds: start + r.time,
		})
	}
	return measurements, nil
}

// sum adds a base value to a number. Whole numbers stay whole as long as an int64 holds them.
func sum(base, v gateway.Value) gateway.Value {
	b, based := base.Number()
	f, number := v.Number()
	if !based || !number || b == 0 {
		return v
	}
	i, ok1 := base.Int()
	j, ok2 := v.Int()
	if s := i + j; ok1 && ok2 && (s > i) == (j > 0) {
		return gateway.IntValue(s)
	}
	return gateway.FloatValue(decimal(b + f))
}

// parseSenML reads the records of a pack.
func parseSenML(f Format, body []byte) ([]record, error) {
	if f == SenMLCBOR {
		return parseSenMLCBOR(body)
	}
	return parseSenMLJSON(body)
}

// parseSenMLJSON reads record by record, so that a pack with too many is refused before it is held.
func parseSenMLJSON(body []byte) ([]record, error) {
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	if open, err := d.Token(); err != nil || open != json.Delim('[') {
		return nil, errPack
	}
	var records []record
	for d.More() {
		var fields map[string]any
		if err := d.Decode(&fields); err != nil || fields == nil || len(records) == maxRecords {
			return nil, errPack
		}
		var r record
		for label, v := range fields {
			if err := r.set(label, v); err != nil {
				return nil, err
			}
		}
		records = append(records, r)
	}
	if _, err := d.Token(); err != nil {
		return nil, errPack
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errPack
	}
	return records, nil
}

var errPack = fmt.Errorf("senml: not an array of at most %d records", maxRecords)

// labelOf is the name of a SenML field whose key in CBOR is its label (RFC 8428 section 6), or "".
func labelOf(key any) string {
	names := [...]string{"bs", "bv", "bu", "bt", "bn", "bver", "n", "u", "v", "vs", "vb", "s", "t", "ut", "vd"}
	const first = -6
	var label int64
	switch k := key.(type) {
	case string:
		return k
	case int64:
		label = k
	case uint64:
		label = int64(min(k, math.MaxInt64))
	default:
		return ""
	}
	if label < first || label >= first+int64(len(names)) {
		return ""
	}
	return names[label-first]
}

// parseSenMLCBOR reads the CBOR form. The limits stand before anything is allocated (COAP-32).
func parseSenMLCBOR(body []byte) ([]record, error) {
	mode, err := cbor.DecOptions{
		DupMapKey:        cbor.DupMapKeyEnforcedAPF,
		MaxNestedLevels:  16,
		MaxArrayElements: maxRecords,
		MaxMapPairs:      64,
	}.DecMode()
	if err != nil {
		return nil, err
	}
	var pack []map[any]any
	if err := mode.Unmarshal(body, &pack); err != nil {
		return nil, errors.New("senml: not cbor, or not an array of maps")
	}
	records := make([]record, len(pack))
	for i, fields := range pack {
		for key, v := range fields {
			if err := records[i].set(labelOf(key), v); err != nil {
				return nil, err
			}
		}
	}
	return records, nil
}

// set takes one field in, whose value is of a type that encoding/json with UseNumber or the CBOR
// decoder yields. Unknown fields are ignored unless they must be understood (RFC 8428 section 4.4).
func (r *record) set(label string, v any) (err error) {
	var ok bool
	var n gateway.Value
	switch label {
	case "bn":
		var s string
		s, ok = v.(string)
		r.baseName = &s
	case "n":
		r.name, ok = v.(string)
	case "bt":
		n, ok = number(v)
		r.baseTime = &n
	case "bv":
		n, ok = number(v)
		r.baseValue = &n
	case "t":
		n, ok = number(v)
		r.time, _ = n.Number()
	case "bver":
		n, ok = number(v)
		version, _ := n.Number()
		ok = ok && (version <= 10 || version == 26) // 26: with secondary units (RFC 9100)
	case "v":
		r.value, ok = number(v)
		r.values++
	case "vs", "vb", "vd":
		r.value, ok = other(label, v)
		r.values++
	default:
		ok = !strings.HasSuffix(label, "_")
	}
	if !ok {
		return fmt.Errorf("senml: field %.16q cannot be understood", label)
	}
	return nil
}

// other makes a value of a field that is not a number.
func other(label string, v any) (gateway.Value, bool) {
	switch x := v.(type) {
	case bool:
		return gateway.BoolValue(x), label == "vb"
	case string: // vd is base64url in JSON, and stays so
		return gateway.TextValue(x), label != "vb"
	case []byte:
		return gateway.TextValue(base64.RawURLEncoding.EncodeToString(x)), label == "vd"
	}
	return gateway.Value{}, false
}

// number makes a value of a SenML number, whatever form it has.
func number(v any) (gateway.Value, bool) {
	switch x := v.(type) {
	case json.Number:
		parsed, err := gateway.ParseValue([]byte(x))
		return parsed, err == nil
	case int64:
		return gateway.IntValue(x), true
	case uint64:
		if x <= math.MaxInt64 {
			return gateway.IntValue(int64(x)), true
		}
		return gateway.UintValue(x), true
	case float64:
		return gateway.FloatValue(x), true
	case cbor.Tag:
		return decimalFraction(x)
	}
	return gateway.Value{}, false
}

// decimalFraction is CBOR tag 4: [exponent, mantissa] (RFC 8949 section 3.4.4).
func decimalFraction(t cbor.Tag) (gateway.Value, bool) {
	parts, ok := t.Content.([]any)
	if t.Number != 4 || !ok || len(parts) != 2 {
		return gateway.Value{}, false
	}
	e, ok1 := number(parts[0])
	m, ok2 := number(parts[1])
	exponent, whole1 := e.Int()
	mantissa, whole2 := m.Int()
	if !ok1 || !ok2 || !whole1 || !whole2 || exponent < -400 || exponent > 400 {
		return gateway.Value{}, false
	}
	f, err := strconv.ParseFloat(strconv.FormatInt(mantissa, 10)+"e"+strconv.FormatInt(exponent, 10), 64)
	return gateway.FloatValue(f), err == nil
}
