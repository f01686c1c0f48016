package bridge

import (
	"time"

	gateway "iothub-gateway"
)

// maxBody is the size at which a message is closed and the rest goes into the next one, in bytes: a
// quarter of what the hub takes (MB-60).
const maxBody = 64 << 10

// body collects the fields of one message. Its memory is used again for the next.
type body struct {
	values  []byte // members of the object, without braces
	quality []byte // members of "_quality", without braces
	newest  time.Time
}

// add appends a reading under its key, which is a JSON string with a colon. A good reading is a
// value, an out-of-range one is a value with a quality, any other bad one only a quality.
func (b *body) add(key []byte, s gateway.Sample) {
	if s.Value.Kind() != gateway.Absent {
		b.values = s.Value.AppendJSON(append(separated(b.values), key...))
	}
	if reason := gateway.Reason(s.Err); reason != "" {
		b.quality = append(append(separated(b.quality), key...), '"')
		b.quality = append(append(b.quality, reason...), '"')
	}
	if s.Time.After(b.newest) {
		b.newest = s.Time
	}
}

// separated makes room for one more member.
func separated(members []byte) []byte {
	if len(members) > 0 {
		return append(members, ',')
	}
	return members
}

// full tells whether the message should be closed before it takes another reading.
func (b *body) full() bool { return len(b.values)+len(b.quality) >= maxBody }

// take returns the JSON object in memory of its own, with the time of its newest reading, and
// empties the body. Without a reading it returns nil.
func (b *body) take() (object []byte, newest time.Time) {
	if len(b.values) == 0 && len(b.quality) == 0 {
		return nil, time.Time{}
	}
	const open, name, end = `{`, `"_quality":{`, `}`
	object = make([]byte, 0, len(b.values)+len(b.quality)+len(open)+len(name)+2*len(end)+1)
	object = append(append(object, open...), b.values...)
	if len(b.quality) > 0 {
		if len(b.values) > 0 {
			object = append(object, ',')
		}
		object = append(append(append(object, name...), b.quality...), end...)
	}
	object = append(object, end...)
	newest = b.newest
	b.values, b.quality, b.newest = b.values[:0], b.quality[:0], time.Time{}
	return object, newest
}
