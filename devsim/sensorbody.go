package devsim

import (
	"encoding/binary"
	"encoding/json"
	"math"
	"strings"

	"github.com/plgd-dev/go-coap/v3/message"

	gateway "iothub-gateway"
	"iothub-gateway/adapters/coap"
)

// formatOf is how a device writes its reports: what suits its first point.
func formatOf(d coap.Device) coap.Format {
	switch {
	case d.Points[0].Source == coap.FromJSON:
		return coap.JSON
	case d.Points[0].Source == coap.FromBody:
		return coap.Text
	case d.Assume == coap.SenMLCBOR:
		return coap.SenMLCBOR
	}
	return coap.SenMLJSON
}

// mediaOf is a format's Content-Format (RFC 7252 section 12.3, RFC 8428 section 12.1).
func mediaOf(f coap.Format) message.MediaType {
	switch f {
	case coap.JSON:
		return 50
	case coap.SenMLJSON:
		return 110
	case coap.SenMLCBOR:
		return 112
	}
	return message.TextPlain
}

// report is what a device sends.
type report struct {
	format coap.Format
	places []*place
	begun  bool // the first was sent
}

// placeOf is the place of a point, a new one if it is the first of its key.
func (r *report) placeOf(at coap.Point, north gateway.Point, seed uint64) *place {
	for _, p := range r.places {
		if p.key == at.Key {
			return p
		}
	}
	p := newPlace(at, north, seed)
	r.places = append(r.places, p)
	return p
}

// body writes the places. The base goes in front of the names of SenML records.
func (r *report) body(base string) ([]byte, error) {
	switch r.format {
	case coap.JSON:
		var document any = map[string]any{}
		for _, p := range r.places {
			document = graft(document, pointerOf(p.key), p.sent)
		}
		return json.Marshal(document)
	case coap.SenMLJSON:
		return packJSON(r.records(base)), nil
	case coap.SenMLCBOR:
		return packCBOR(r.records(base)), nil
	}
	return []byte(r.places[0].sent.String()), nil
}

// pointerOf splits a JSON pointer into the names on its way (RFC 6901 sections 3 and 4).
func pointerOf(key string) []string {
	names := strings.Split(key, "/")[1:]
	for i, name := range names {
		names[i] = strings.NewReplacer("~1", "/", "~0", "~").Replace(name)
	}
	return names
}

// graft puts v into a document of objects, at the end of the way.
func graft(document any, way []string, v gateway.Value) any {
	if len(way) == 0 {
		return v
	}
	object, ok := document.(map[string]any)
	if !ok {
		object = map[string]any{}
	}
	object[way[0]] = graft(object[way[0]], way[1:], v)
	return object
}

// field is one field of a SenML record: its name in JSON and its label in CBOR (RFC 8428 table 4).
type field struct {
	name  string
	label int
	value gateway.Value
}

// records are the places that have a value. The first record brings the base name.
func (r *report) records(base string) [][]field {
	var records [][]field
	for _, p := range r.places {
		if p.sent.Kind() == gateway.Absent {
			continue
		}
		var record []field
		if len(records) == 0 {
			record = append(record, field{"bn", -2, gateway.TextValue(base)})
		}
		record = append(record, field{"n", 0, gateway.TextValue(p.key)})
		if p.unit != "" {
			record = append(record, field{"u", 1, gateway.TextValue(p.unit)})
		}
		switch p.sent.Kind() {
		case gateway.Bool:
			record = append(record, field{"vb", 4, p.sent})
		case gateway.Text:
			record = append(record, field{"vs", 3, p.sent})
		default:
			record = append(record, field{"v", 2, p.sent})
		}
		records = append(records, record)
	}
	return records
}

// packJSON writes SenML in JSON (RFC 8428 section 5).
func packJSON(records [][]field) []byte {
	out := []byte{'['}
	for i, record := range records {
		if i > 0 {
			out = append(out, ',')
		}
		for j, f := range record {
			out = append(out, "{,"[min(j, 1)])
			out = gateway.TextValue(f.name).AppendJSON(out)
			out = f.value.AppendJSON(append(out, ':'))
		}
		out = append(out, '}')
	}
	return append(out, ']')
}

// The major types of CBOR (RFC 8949 section 3.1).
const (
	cborUnsigned byte = iota << 5
	cborNegative
	_
	cborText
	cborArray
	cborMap
)

// packCBOR writes SenML in CBOR (RFC 8428 section 6).
func packCBOR(records [][]field) []byte {
	out := appendHead(nil, cborArray, uint64(len(records)))
	for _, record := range records {
		out = appendHead(out, cborMap, uint64(len(record)))
		for _, f := range record {
			out = appendInt(out, int64(f.label))
			out = appendCBOR(out, f.value)
		}
	}
	return out
}

// appendCBOR writes a value; a number as an integer if it is one, else in double precision.
func appendCBOR(out []byte, v gateway.Value) []byte {
	if text, ok := v.Text(); ok {
		return append(appendHead(out, cborText, uint64(len(text))), text...)
	}
	if b, ok := v.Bool(); ok && b {
		return append(out, 0xf5)
	} else if ok {
		return append(out, 0xf4)
	}
	if i, ok := v.Int(); ok {
		return appendInt(out, i)
	}
	if u, ok := v.Uint(); ok {
		return appendHead(out, cborUnsigned, u)
	}
	f, _ := v.Number()
	return binary.BigEndian.AppendUint64(append(out, 0xfb), math.Float64bits(f))
}

func appendInt(out []byte, i int64) []byte {
	if i < 0 {
		return appendHead(out, cborNegative, uint64(-1-i))
	}
	return appendHead(out, cborUnsigned, uint64(i))
}

// appendHead writes a major type with its argument, as short as possible (RFC 8949 section 4.2.1).
func appendHead(out []byte, major byte, n uint64) []byte {
	switch {
	case n < 24:
		return append(out, major|byte(n))
	case n <= math.MaxUint8:
		return append(out, major|24, byte(n))
	case n <= math.MaxUint16:
		return binary.BigEndian.AppendUint16(append(out, major|25), uint16(n))
	case n <= math.MaxUint32:
		return binary.BigEndian.AppendUint32(append(out, major|26), uint32(n))
	}
	return binary.BigEndian.AppendUint64(append(out, major|27), n)
}
