package buffer

import (
	"bytes"
	"slices"
	"time"

	gateway "iothub-gateway"
)

// A pack is one message for several entries of a lane: consecutive, with equal properties. Its body is
// a JSON array of their objects, each with its creation time as the first member. While packs are on,
// every message is an array, so that a consumer knows one form: of one if nothing else waits, and a gap
// is an array by itself.
//
// Where a pack ends is committed before the pack is handed out, because a repeat must have the same id
// and the same bytes, after a restart too. Such an end is a cut.

// packTime is the member that a pack adds to each object.
const packTime = "time"

// planCuts says where packs of entries end, as far as that is decided: the sequence of the last entry of
// each. What is left over may still grow: whole tells that no more entry is there and none is worth
// waiting for.
func planCuts(entries []Entry, maxBytes int, whole bool) (ends []uint64) {
	size := 0
	for i := range entries {
		e := &entries[i]
		n := itemLen(e)
		if i > 0 && size > 0 && !fitsPack(&entries[i-1], e, size+n, maxBytes) {
			ends = append(ends, entries[i-1].Seq)
			size = 0
		}
		size += n
		if e.Gap != nil || size >= maxBytes {
			ends = append(ends, e.Seq)
			size = 0
		}
	}
	if size > 0 && whole {
		ends = append(ends, entries[len(entries)-1].Seq)
	}
	return ends
}

// fitsPack tells whether next may join the pack that last ends, which then takes size bytes.
func fitsPack(last, next *Entry, size, maxBytes int) bool {
	return next.Gap == nil && size < maxBytes && last.Queue == next.Queue &&
		slices.Equal(last.Telemetry.Properties, next.Telemetry.Properties)
}

// itemLen is at least what e takes in a pack: its object, the time and the commas.
func itemLen(e *Entry) int {
	return len(e.Telemetry.Body) + len(`{"":"",},`) + len(packTime) + len(stampFormat)
}

// pack makes one message of entries, which planCuts has put together.
func pack(entries []Entry) Entry {
	if entries[0].Gap != nil {
		gap := entries[0]
		gap.Telemetry.Body = slices.Concat([]byte("["), gap.Telemetry.Body, []byte("]"))
		return gap
	}
	size := 1
	for i := range entries {
		size += itemLen(&entries[i])
	}
	first, last := &entries[0], &entries[len(entries)-1]
	message := Entry{
		Queue: first.Queue, First: first.First, Seq: last.Seq, Packed: len(entries),
		Telemetry: gateway.Telemetry{
			Identity: first.Telemetry.Identity, Properties: first.Telemetry.Properties, Created: newest(entries),
			Body: append(make([]byte, 0, size), '['),
		},
	}
	for i := range entries {
		if i > 0 {
			message.Telemetry.Body = append(message.Telemetry.Body, ',')
		}
		message.Telemetry.Body = appendItem(message.Telemetry.Body, &entries[i].Telemetry)
	}
	message.Telemetry.Body = append(message.Telemetry.Body, ']')
	return message
}

// appendItem appends the object of t with its creation time. A body that is no object, which the bridge
// never makes, becomes the member "value".
func appendItem(b []byte, t *gateway.Telemetry) []byte {
	b = append(b, `{"`+packTime+`":"`...)
	b = t.Created.UTC().AppendFormat(b, stampFormat)
	b = append(b, '"')
	body := bytes.TrimSpace(t.Body)
	if len(body) < 2 || body[0] != '{' {
		return append(append(append(b, `,"value":`...), body...), '}')
	}
	if inner := bytes.TrimSpace(body[1 : len(body)-1]); len(inner) > 0 {
		b = append(append(b, ','), inner...)
	}
	return append(b, '}')
}

func newest(entries []Entry) time.Time {
	created := entries[0].Telemetry.Created
	for i := range entries {
		if entries[i].Telemetry.Created.After(created) {
			created = entries[i].Telemetry.Created
		}
	}
	return created
}

// growth is how much longer a pack that begins with an entry created at created is worth waiting for;
// none is not positive. A creation time that the clock contradicts does not count.
func growth(created, now time.Time, maxWait time.Duration) time.Duration {
	return maxWait - max(0, min(now.Sub(created), maxWait))
}
