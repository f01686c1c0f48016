package buffer

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"time"

	gateway "iothub-gateway"
)

// The record version and kinds of this program. A kind it does not know is refused, not skipped.
const (
	recordVersion = 1
	kindData      = 1
)

// Where the parts of a record stand; the properties begin at atProps.
const (
	atKind    = 1
	atSeq     = 2
	atSeconds = 10
	atNanos   = 18
	atProps   = 22
	crcLen    = 4
)

// MaxMessage is the most that the body and the names and values of the properties of one Telemetry
// may hold together, in bytes: the hub's 256 KiB (D2C-24) less 2 KiB for the system properties that
// upstream adds.
const MaxMessage = 256<<10 - 2<<10

// maxTopicProperties is how long the properties may be in the topic: MQTT's 65,535 bytes (D2C-15)
// less 2 KiB for the rest of it.
const maxTopicProperties = 65535 - 2<<10

const keyLen = 12

// key is the place of a record in the log.
type key [keyLen]byte

func makeKey(global uint64, number uint32) (k key) {
	binary.BigEndian.PutUint64(k[:], global)
	binary.BigEndian.PutUint32(k[8:], number)
	return k
}

func parseKey(k []byte) (global uint64, number uint32, ok bool) {
	if len(k) != keyLen {
		return 0, 0, false
	}
	return binary.BigEndian.Uint64(k), binary.BigEndian.Uint32(k[8:]), true
}

func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) }

// fits tells whether the hub could ever accept t.
func fits(t gateway.Telemetry) error {
	size, topic := len(t.Body), 0
	for _, p := range t.Properties {
		size += len(p.Name) + len(p.Value)
		topic += 2 + escapedLen(p.Name) + escapedLen(p.Value)
	}
	if size > MaxMessage {
		return fmt.Errorf("%w: body and properties hold %d bytes, the hub takes %d", ErrTooLarge, size, MaxMessage)
	}
	if topic > maxTopicProperties {
		return fmt.Errorf("%w: the properties are %d bytes in the topic, %d are possible", ErrTooLarge, topic, maxTopicProperties)
	}
	return nil
}

// escapedLen is how long s is when percent-encoded.
func escapedLen(s string) int {
	n := len(s)
	for i := range len(s) {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		case c == '-', c == '.', c == '_', c == '~':
		default:
			n += 2
		}
	}
	return n
}

// encode makes the record of t. It copies everything, so that the caller may reuse t. The sequence
// and the CRC are left open for seal, because the committer knows them only when it writes.
func encode(t gateway.Telemetry) []byte {
	n := atProps + binary.MaxVarintLen16 + len(t.Body) + crcLen
	for _, p := range t.Properties {
		n += 2*binary.MaxVarintLen32 + len(p.Name) + len(p.Value)
	}
	r := make([]byte, atProps, n)
	r[0] = recordVersion
	r[atKind] = kindData
	binary.BigEndian.PutUint64(r[atSeconds:], uint64(t.Created.Unix()))
	binary.BigEndian.PutUint32(r[atNanos:], uint32(t.Created.Nanosecond()))
	r = binary.AppendUvarint(r, uint64(len(t.Properties)))
	for _, p := range t.Properties {
		r = appendText(r, p.Name)
		r = appendText(r, p.Value)
	}
	r = append(r, t.Body...)
	return append(r, make([]byte, crcLen)...)
}

func appendText(r []byte, s string) []byte {
	return append(binary.AppendUvarint(r, uint64(len(s))), s...)
}

// seal completes a record that encode made.
func seal(record []byte, k key, seq uint64) {
	binary.BigEndian.PutUint64(record[atSeq:], seq)
	end := len(record) - crcLen
	binary.BigEndian.PutUint32(record[end:], checksum(k[:], record[:end]))
}

func checksum(k, content []byte) uint32 {
	table := castagnoli()
	return crc32.Update(crc32.Checksum(k, table), table, content)
}

// check tells whether a record that was read at k is the one that was written there.
func check(k key, record []byte) error {
	if len(record) < atProps+1+crcLen {
		return fmt.Errorf("%w: %d bytes are too short for a record", ErrDamaged, len(record))
	}
	end := len(record) - crcLen
	if binary.BigEndian.Uint32(record[end:]) != checksum(k[:], record[:end]) {
		return fmt.Errorf("%w: checksum mismatch", ErrDamaged)
	}
	return nil
}

func sequenceOf(record []byte) uint64 { return binary.BigEndian.Uint64(record[atSeq:]) }

// createdOf is the creation time in UTC.
func createdOf(record []byte) time.Time {
	seconds := int64(binary.BigEndian.Uint64(record[atSeconds:]))
	return time.Unix(seconds, int64(binary.BigEndian.Uint32(record[atNanos:]))).UTC()
}

// decoder turns the records of one lane into entries. Entries whose properties are the same, as
// those of one lane nearly always are, share them.
type decoder struct {
	identity   gateway.IdentityID
	encoded    []byte // the properties that were decoded last
	properties []gateway.Property
}

// decode reads a record that check passed. The body of the entry is part of the record.
func (d *decoder) decode(record []byte) (Entry, error) {
	if len(record) < atProps+1+crcLen {
		return Entry{}, fmt.Errorf("%w: %d bytes are too short for a record", ErrDamaged, len(record))
	}
	if record[0] != recordVersion || record[atKind] != kindData {
		return Entry{}, fmt.Errorf("%w: record version %d kind %d", ErrFormat, record[0], record[atKind])
	}
	end := len(record) - crcLen
	rest, count, err := skipProperties(record[atProps:end])
	if err != nil {
		return Entry{}, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if encoded := record[atProps : end-len(rest)]; !bytes.Equal(encoded, d.encoded) {
		d.encoded, d.properties = encoded, parseProperties(encoded, count)
	}
	return Entry{
		Seq: sequenceOf(record),
		Telemetry: gateway.Telemetry{
			Identity:   d.identity,
			Body:       rest[:len(rest):len(rest)],
			Properties: d.properties,
			Created:    createdOf(record),
		},
	}, nil
}

var errProperties = errors.New("the properties are cut off")

// skipProperties finds where the properties end and how many there are.
func skipProperties(b []byte) (rest []byte, count int, err error) {
	n, used := binary.Uvarint(b)
	// A property is at least two bytes long; this bounds what parseProperties allocates.
	if used <= 0 || n > uint64(len(b))/2 {
		return nil, 0, errProperties
	}
	rest = b[used:]
	for range 2 * n {
		size, used := binary.Uvarint(rest)
		if used <= 0 || size > math.MaxInt32 || int(size) > len(rest)-used {
			return nil, 0, errProperties
		}
		rest = rest[used+int(size):]
	}
	return rest, int(n), nil
}

// parseProperties decodes what skipProperties has found to be whole.
func parseProperties(encoded []byte, count int) []gateway.Property {
	if count == 0 {
		return nil
	}
	text := string(encoded) // one allocation that all names and values share
	_, at := binary.Uvarint(encoded)
	next := func() string {
		size, used := binary.Uvarint(encoded[at:])
		from := at + used
		at = from + int(size)
		return text[from:at]
	}
	properties := make([]gateway.Property, count)
	for i := range properties {
		properties[i] = gateway.Property{Name: next(), Value: next()}
	}
	return properties
}
