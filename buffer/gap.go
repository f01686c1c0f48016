package buffer

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"time"

	gateway "iothub-gateway"
)

// Why entries were dropped, as it stands in the message of a gap.
const (
	ReasonSize       = "size"        // a limit of size
	ReasonAge        = "age"         // a limit of age
	ReasonDamaged    = "damaged"     // the disk has lost them
	ReasonOperator   = "operator"    // somebody said so
	ReasonDeadLetter = "dead-letter" // the hub never takes them; they are among the dead letters
)

// Gap stands for entries that were dropped, in their place.
type Gap struct {
	First, Last uint64 // sequences, both included
	Count       uint64
	// From and To are the creation times of the first and the last; zero if they are not known.
	From, To time.Time
	Reasons  map[string]uint64 // how many for which reason
}

// gapJSON is the body of a gap's message: {"gap":{"first":1,"last":50,...}}.
type gapJSON struct {
	Gap gapFields `json:"gap"`
}

type gapFields struct {
	First   uint64            `json:"first"`
	Last    uint64            `json:"last"`
	Count   uint64            `json:"count"`
	From    string            `json:"from,omitempty"`
	To      string            `json:"to,omitempty"`
	Reasons map[string]uint64 `json:"reasons"`
}

const (
	propertyKind = "gateway-kind"
	kindOfGap    = "gap"
	stampFormat  = "2006-01-02T15:04:05.000Z" // RFC 3339, UTC, milliseconds
)

// gapHead is what the body of a gap's record has in front of the message: the global sequence of the
// first entry that it covers and the bytes (keys and records) of all of them.
const gapHead = 16

// encodeGap makes the record of g, which covers entries from the global sequence first on that took
// bytes.
func encodeGap(g Gap, first uint64, bytes int64) []byte {
	fields := gapFields{First: g.First, Last: g.Last, Count: g.Count, Reasons: g.Reasons, From: stamp(g.From), To: stamp(g.To)}
	message, _ := json.Marshal(gapJSON{fields}) // nothing in it can fail
	body := binary.BigEndian.AppendUint64(make([]byte, 0, gapHead+len(message)), first)
	body = binary.BigEndian.AppendUint64(body, uint64(bytes))
	return encodeRecord(kindGap, gateway.Telemetry{Body: append(body, message...), Created: g.To}, stamps{})
}

func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(stampFormat)
}

// decodeGap reads the body of a gap's record.
func decodeGap(body []byte) (g Gap, first uint64, bytes int64, message []byte, err error) {
	if len(body) < gapHead {
		return Gap{}, 0, 0, nil, fmt.Errorf("%w: %d bytes are too short for a gap", ErrDamaged, len(body))
	}
	message = body[gapHead:]
	var decoded gapJSON
	if err := json.Unmarshal(message, &decoded); err != nil {
		return Gap{}, 0, 0, nil, fmt.Errorf("%w: gap: %w", ErrDamaged, err)
	}
	f := decoded.Gap
	g = Gap{First: f.First, Last: f.Last, Count: f.Count, Reasons: f.Reasons, From: parseStamp(f.From), To: parseStamp(f.To)}
	return g, binary.BigEndian.Uint64(body), int64(binary.BigEndian.Uint64(body[8:])), message, nil
}

func parseStamp(s string) time.Time {
	t, _ := time.Parse(stampFormat, s) // "" is the zero time
	return t
}

// gapEntry makes the message of a gap from its record's entry.
func gapEntry(e Entry) (Entry, error) {
	g, _, _, message, err := decodeGap(e.Telemetry.Body)
	if err != nil {
		return Entry{}, err
	}
	if g.Last != e.Seq || g.First > g.Last {
		return Entry{}, fmt.Errorf("%w: a gap from %d to %d stands at sequence %d", ErrDamaged, g.First, g.Last, e.Seq)
	}
	e.First, e.Gap = g.First, &g
	e.Telemetry.Body = message
	e.Telemetry.Properties = []gateway.Property{{Name: propertyKind, Value: kindOfGap}}
	return e, nil
}
