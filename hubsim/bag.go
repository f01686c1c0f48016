package hubsim

import (
	"bytes"
	"slices"
	"strings"
)

// bag is the property bag at the end of a telemetry topic, decoded. Its memory is used again by the
// next parse.
type bag struct {
	pairs []pair
	buf   []byte // what the pairs point into
	// index finds a name among many pairs; nil while they are few.
	index map[string]int
	// repeated and unprintable say what is wrong with a bag that the hub nevertheless takes.
	repeated, unprintable bool
}

// pair is one property. A null value (D2C-11) is empty.
type pair struct{ name, value []byte }

// parse decodes raw, strictly (D2C-7 to D2C-13). One leading '?' and one trailing '/' are no part of the
// bag (D2C-4, D2C-5). Of a repeated name, compared without case, the last value counts. The error says
// why the hub closes the connection.
func (b *bag) parse(raw []byte) error {
	b.pairs, b.buf, b.index, b.repeated, b.unprintable = b.pairs[:0], b.buf[:0], nil, false, false
	raw = bytes.TrimPrefix(raw, []byte{'?'})
	if len(raw) > 1 {
		raw = bytes.TrimSuffix(raw, []byte{'/'})
	}
	if cap(b.buf) < len(raw) { // the pairs point into buf: it must not move
		b.buf = make([]byte, 0, 2*len(raw))
	}
	for len(raw) > 0 {
		text, rest, more := bytes.Cut(raw, []byte{'&'})
		raw = rest
		if len(text) == 0 {
			return wrong("D2C-12", "the property bag begins with & or has &&")
		}
		if err := b.parsePair(text); err != nil {
			return err
		}
		if more && len(rest) == 0 {
			return nil // one & at the end is tolerated
		}
	}
	return nil
}

func (b *bag) parsePair(text []byte) error {
	rawName, rawValue, _ := bytes.Cut(text, []byte{'='})
	if len(rawName) == 0 {
		return wrong("D2C-12", "a property has no name: %q", text)
	}
	if bytes.IndexByte(rawValue, '=') >= 0 {
		return wrong("D2C-12", "a second = in %q must be %%3D", text)
	}
	name, err := b.decode(rawName)
	if err != nil {
		return err
	}
	value, err := b.decode(rawValue)
	if err != nil {
		return err
	}
	if i, found := b.find(name); found {
		b.repeated = true
		b.pairs[i] = pair{name, value}
		return nil
	}
	b.pairs = append(b.pairs, pair{name, value})
	if b.index != nil {
		b.index[folded(name)] = len(b.pairs) - 1
	}
	return nil
}

// fewPairs are looked through one by one: a topic has room for 16 000.
const fewPairs = 32

// find is where the pair of this name is, compared without case.
func (b *bag) find(name []byte) (i int, found bool) {
	if len(b.pairs) <= fewPairs {
		i = slices.IndexFunc(b.pairs, func(p pair) bool { return bytes.EqualFold(p.name, name) })
		return i, i >= 0
	}
	if b.index == nil {
		b.index = map[string]int{}
		for i, p := range b.pairs {
			b.index[folded(p.name)] = i
		}
	}
	i, found = b.index[folded(name)]
	return i, found
}

// folded is the same for names that differ in case only.
func folded(name []byte) string { return string(bytes.ToLower(bytes.ToUpper(name))) }

// decode appends the percent-decoded text to b.buf and returns it.
func (b *bag) decode(text []byte) ([]byte, error) {
	start := len(b.buf)
	for i := 0; i < len(text); i++ {
		c := text[i]
		if c == '%' {
			if i+2 >= len(text) || !isHex(text[i+1]) || !isHex(text[i+2]) {
				return nil, wrong("D2C-7", "%q: %% is not followed by two hex digits", text)
			}
			c = unhex(text[i+1])<<4 | unhex(text[i+2])
			i += 2
		} else if !mayStandRaw(c) {
			return nil, wrong("D2C-9, CLOSE-4, CLOSE-5", "%q: %q must be %%%02X", text, rune(c), c)
		}
		if c < ' ' || c > '~' {
			b.unprintable = true
		}
		b.buf = append(b.buf, c)
	}
	return b.buf[start:], nil
}

// mayStandRaw tells what need not be percent-encoded: RFC 3986's unreserved characters, the $ of system
// properties (D2C-16) and what JavaScript's encodeURIComponent leaves alone.
func mayStandRaw(c byte) bool {
	switch {
	case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		return true
	}
	return strings.IndexByte("-._~$!'()*", c) >= 0
}

func isHex(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F'
}

func unhex(c byte) byte {
	switch {
	case c <= '9':
		return c - '0'
	case c <= 'F':
		return c - 'A' + 10
	}
	return c - 'a' + 10
}

// size is what the bag counts towards the limit of a message: application names and values, and the
// values of system properties (D2C-24).
func (b *bag) size() int {
	n := 0
	for _, p := range b.pairs {
		if !isSystem(p.name) {
			n += len(p.name)
		}
		n += len(p.value)
	}
	return n
}

func isSystem(name []byte) bool { return bytes.HasPrefix(name, []byte("$.")) }

// systemName is the hub-side name of a system property (D2C-16, D2C-17), or "" for an application
// property. An unknown $. name stays as it is.
func systemName(name string) string {
	switch name {
	case "$.mid":
		return "message-id"
	case "$.cid":
		return "correlation-id"
	case "$.uid":
		return "user-id"
	case "$.to":
		return "to"
	case "$.exp":
		return "absolute-expiry-time"
	case "$.ct":
		return "content-type"
	case "$.ce":
		return "content-encoding"
	case "$.on":
		return "outputName"
	case "$.ifid":
		return "iothub-interface-id"
	case "$.sub":
		return "dt-subject"
	case "$.schema", "iothub-message-schema":
		return "iothub-message-schema"
	case "$.ctime", "iothub-creation-time-utc":
		return "iothub-creation-time-utc"
	case "$.diagid":
		return "Diagnostic-Id"
	case "$.diagctx":
		return "Correlation-Context"
	}
	if strings.HasPrefix(name, "$.") {
		return name
	}
	return ""
}

// DecodeBag decodes the property bag of a telemetry topic as the hub does, system properties under the
// names that they have on the wire, such as "$.mid". The error says why the hub closes the connection.
func DecodeBag(raw string) (map[string]string, error) {
	var b bag
	if err := b.parse([]byte(raw)); err != nil {
		return nil, err
	}
	all := make(map[string]string, len(b.pairs))
	for _, p := range b.pairs {
		all[string(p.name)] = string(p.value)
	}
	return all, nil
}
