package buffer

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"time"

	gateway "iothub-gateway"
)

// The record versions and kinds of this program. What it does not know is refused, not skipped.
const (
	recordVersion = 2
	kindData      = 1
	kindGap       = 2
)

// Where the parts of a record stand. In version 1 the properties begin at atEpoch; in version 2 they
// follow what the flags say is there.
const (
	atKind    = 1
	atSeq     = 2
	atSeconds = 10
	atNanos   = 18
	atEpoch   = 22
	atFlags   = 26
	atStamps  = 27
	crcLen    = 4
	minRecord = atEpoch + 1 + crcLen
)

// The flags of version 2, and what of each stands in the record, in this order.
const (
	flagOrigin         = 1 << iota // 8 bytes: the id of the queue that numbered the entry, if not this one
	flagUnsynchronised             // boot id 4, boot time 8: created by a clock that was not good
	flagAccepted                   // 8 bytes, seconds: accepted then, not when created; 0: nobody knows
	flagsKnown         = 1<<iota - 1
)

// stamps is what a record says beside what was put.
type stamps struct {
	origin         string        // queue id; "" for the queue that the record stands in
	unsynchronised bool          // the next two are set
	boot           uint32        // of the machine
	sinceBoot      time.Duration // of the creation
	accepted       time.Time     // zero: as created
	unknown        bool          // the time of acceptance is not known
}

// MaxMessage is the most that the body and the names and values of the properties of one Telemetry
// may hold together, in bytes: the hub's 256 KiB (D2C-24) less 2 KiB for the system properties that
// upstream adds.
const MaxMessage = 256<<10 - 2<<10

// maxTopicProperties is how long the properties may be in the topic: MQTT's 65,535 bytes (D2C-15)
// less 2 KiB for the rest of it.
const maxTopicProperties = 65535 - 2<<10

const (
	keyLen = 12
	idLen  = 8 // bytes of a queue id
)

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

// encodeRecord makes the record of t. It copies everything, so that the caller may reuse t. Sequence,
// epoch and CRC are left open for seal, because the committer knows them only when it writes.
func encodeRecord(kind byte, t gateway.Telemetry, s stamps) []byte {
	n := atStamps + 28 + binary.MaxVarintLen16 + len(t.Body) + crcLen
	for _, p := range t.Properties {
		n += 2*binary.MaxVarintLen32 + len(p.Name) + len(p.Value)
	}
	r := make([]byte, atStamps, n)
	r[0] = recordVersion
	r[atKind] = kind
	binary.BigEndian.PutUint64(r[atSeconds:], uint64(t.Created.Unix()))
	binary.BigEndian.PutUint32(r[atNanos:], uint32(t.Created.Nanosecond()))
	r = appendStamps(r, s)
	r = binary.AppendUvarint(r, uint64(len(t.Properties)))
	for _, p := range t.Properties {
		r = appendText(r, p.Name)
		r = appendText(r, p.Value)
	}
	r = append(r, t.Body...)
	return append(r, make([]byte, crcLen)...)
}

func appendStamps(r []byte, s stamps) []byte {
	if origin, err := hex.DecodeString(s.origin); err == nil && len(origin) == idLen {
		r[atFlags] |= flagOrigin
		r = append(r, origin...)
	}
	if s.unsynchronised {
		r[atFlags] |= flagUnsynchronised
		r = binary.BigEndian.AppendUint32(r, s.boot)
		r = binary.BigEndian.AppendUint64(r, uint64(s.sinceBoot))
	}
	if s.unknown {
		r[atFlags] |= flagAccepted
		r = binary.BigEndian.AppendUint64(r, 0)
	} else if !s.accepted.IsZero() {
		r[atFlags] |= flagAccepted
		r = binary.BigEndian.AppendUint64(r, uint64(s.accepted.Unix()))
	}
	return r
}

// parseStamps reads what stands between the fixed part and the properties of a record, and returns
// where the properties begin.
func parseStamps(r []byte) (s stamps, at int, err error) {
	switch {
	case r[0] == 1 && r[atKind] == kindData:
		return stamps{}, atEpoch, nil
	case r[0] != recordVersion || r[atKind] != kindData && r[atKind] != kindGap || r[atFlags]&^flagsKnown != 0:
		return stamps{}, 0, fmt.Errorf("%w: record version %d kind %d", ErrFormat, r[0], r[atKind])
	}
	at = atStamps
	cut := func(n int) []byte {
		from := at
		at += n
		if at > len(r)-crcLen {
			err = fmt.Errorf("%w: the record is cut off", ErrDamaged)
			return make([]byte, n)
		}
		return r[from:at]
	}
	if r[atFlags]&flagOrigin != 0 {
		s.origin = hex.EncodeToString(cut(idLen))
	}
	if r[atFlags]&flagUnsynchronised != 0 {
		s.unsynchronised = true
		s.boot = binary.BigEndian.Uint32(cut(4))
		s.sinceBoot = time.Duration(binary.BigEndian.Uint64(cut(8)))
	}
	if r[atFlags]&flagAccepted != 0 {
		seconds := int64(binary.BigEndian.Uint64(cut(8)))
		if s.unknown = seconds == 0; !s.unknown {
			s.accepted = time.Unix(seconds, 0).UTC()
		}
	}
	return s, at, err
}

func appendText(r []byte, s string) []byte {
	return append(binary.AppendUvarint(r, uint64(len(s))), s...)
}

// seal completes a record that encodeRecord made.
func seal(record []byte, k key, seq uint64, epoch uint32) {
	binary.BigEndian.PutUint64(record[atSeq:], seq)
	binary.BigEndian.PutUint32(record[atEpoch:], epoch)
	end := len(record) - crcLen
	binary.BigEndian.PutUint32(record[end:], checksum(k[:], record[:end]))
}

func checksum(k, content []byte) uint32 {
	table := castagnoli()
	return crc32.Update(crc32.Checksum(k, table), table, content)
}

// check tells whether a record that was read at k is the one that was written there.
func check(k key, record []byte) error {
	if len(record) < minRecord {
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
	number     uint32
	queue      string // the id of entries that do not bring one
	clocks     clocks
	encoded    []byte // the properties that were decoded last
	properties []gateway.Property
}

// decode reads a record that check passed. The body of the entry is part of the record.
func (d *decoder) decode(record []byte) (Entry, error) {
	if len(record) < minRecord {
		return Entry{}, fmt.Errorf("%w: %d bytes are too short for a record", ErrDamaged, len(record))
	}
	s, at, err := parseStamps(record)
	if err != nil {
		return Entry{}, err
	}
	end := len(record) - crcLen
	rest, count, err := skipProperties(record[at:end])
	if err != nil {
		return Entry{}, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if encoded := record[at : end-len(rest)]; !bytes.Equal(encoded, d.encoded) {
		d.encoded, d.properties = encoded, parseProperties(encoded, count)
	}
	e := Entry{
		Queue: d.queue,
		First: sequenceOf(record),
		Seq:   sequenceOf(record),
		Telemetry: gateway.Telemetry{
			Identity:   d.identity,
			Body:       rest[:len(rest):len(rest)],
			Properties: d.properties,
			Created:    createdOf(record),
		},
	}
	if s.origin != "" {
		e.Queue = s.origin
	}
	if record[atKind] == kindGap {
		return gapEntry(e)
	}
	if s.unsynchronised {
		d.clocks.stamp(&e, d.number, s)
	}
	return e, nil
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
