package hubsim

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Limits of a twin (TWIN-26 to TWIN-32).
const (
	maxTags      = 8 << 10        // bytes as measure counts them
	maxSection   = 32 << 10       // of desired and of reported
	maxBulk      = 2 * maxSection // bytes of a section's JSON: control characters and empty values take room too
	maxTwinKey   = 1 << 10        // bytes
	maxTwinValue = 4 << 10        // bytes of a string or an array
	maxTwinDepth = 10             // objects and arrays inside one another
	minTwinInt   = -1 << 52
	maxTwinInt   = 1<<52 - 1
)

// object is a JSON object of a twin. It is never changed: a patch makes a new one.
type object = map[string]any

// stamps mirror an object: when each part of it changed last, and in which version (TWIN-35).
type stamps struct {
	At      time.Time          `json:"at"`
	Version uint64             `json:"version"`
	In      map[string]*stamps `json:"in,omitempty"`
}

// parseObject reads a patch. Numbers stay as they are written.
func parseObject(text []byte) (object, error) {
	bad := wrong("TWIN-10", "it is not a JSON object")
	if !utf8.Valid(text) {
		return nil, bad
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	var patch object
	if err := decoder.Decode(&patch); err != nil || patch == nil {
		return nil, bad
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return nil, bad
	}
	return patch, nil
}

// place is where in a document something stands. It is spelt out only for an error: names may be long and
// many things may stand in one place.
type place struct {
	in    *place // nil of the whole
	name  string
	level int // how many places it is in
}

func (p *place) within(name string) *place { return &place{p, name, p.level + 1} }

func (p *place) String() string {
	if p.in == nil {
		return p.name
	}
	return p.in.String() + p.name
}

// checkPatch refuses what a twin does not take, whatever it holds already. name is that of the section.
func checkPatch(patch object, name string) error { return checkObject(patch, &place{name: name}) }

func checkObject(o object, at *place) error {
	for _, key := range slices.Sorted(maps.Keys(o)) {
		if err := checkKeyOf(key, at); err != nil {
			return err
		}
		if err := checkValue(o[key], at.within("."+key)); err != nil {
			return err
		}
	}
	return nil
}

func checkKeyOf(key string, at *place) error {
	switch {
	case key == "", len(key) > maxTwinKey: // first: the others repeat the name
		return wrong("TWIN-28", "%s has a property name of %d bytes; 1 to %d are allowed", at, len(key), maxTwinKey)
	case strings.HasPrefix(key, "$"):
		return wrong("TWIN-24, TWIN-28", "%s has a property %q: names that begin with $ are the hub's", at, key)
	case strings.ContainsFunc(key, func(r rune) bool { return isControl(r) || strings.ContainsRune(".$ ", r) }):
		return wrong("TWIN-28", "%s has a property %q: control characters, '.', '$' and space are not allowed in a name", at, key)
	}
	return nil
}

func checkValue(value any, at *place) error {
	switch v := value.(type) {
	case object:
		if at.level > maxTwinDepth {
			return wrong("TWIN-32", "%s is nested deeper than %d levels", at, maxTwinDepth)
		}
		return checkObject(v, at)
	case []any:
		if at.level > maxTwinDepth {
			return wrong("TWIN-32", "%s is nested deeper than %d levels", at, maxTwinDepth)
		}
		for i, element := range v {
			if err := checkValue(element, at.within("["+strconv.Itoa(i)+"]")); err != nil {
				return err
			}
		}
		if n := measure(v); n > maxTwinValue {
			return wrong("TWIN-31", "%s has %d bytes, the limit of a value is %d", at, n, maxTwinValue)
		}
	case string:
		if len(v) > maxTwinValue {
			return wrong("TWIN-31", "%s is a string of %d bytes, the limit is %d", at, len(v), maxTwinValue)
		}
	case json.Number:
		return checkNumber(v, at)
	}
	return nil
}

func checkNumber(n json.Number, at *place) error {
	if strings.ContainsAny(n.String(), ".eE") {
		if _, err := n.Float64(); err != nil {
			return wrong("TWIN-30", "%s is %s: not a number of 64 bits", at, n)
		}
		return nil
	}
	if i, err := n.Int64(); err != nil || i < minTwinInt || i > maxTwinInt {
		return wrong("TWIN-30", "%s is %s: integers reach from %d to %d", at, n, int64(minTwinInt), int64(maxTwinInt))
	}
	return nil
}

func isControl(r rune) bool { return r < 0x20 || 0x7f <= r && r < 0xa0 }

// measure is the size of a value as the limits of a twin count it (TWIN-27).
func measure(value any) int {
	switch v := value.(type) {
	case object:
		n := 0
		for key, inner := range v {
			n += textSize(key) + measure(inner)
		}
		return n
	case []any:
		n := 0
		for _, inner := range v {
			n += measure(inner)
		}
		return n
	case string:
		return textSize(v)
	case json.Number:
		return 8
	case bool:
		return 4
	}
	return 0
}

// bulk is about how long the JSON of a value is.
func bulk(value any) int {
	n := 2
	switch v := value.(type) {
	case object:
		for key, inner := range v {
			n += len(key) + 4 + bulk(inner)
		}
	case []any:
		for _, inner := range v {
			n += 1 + bulk(inner)
		}
	case string:
		n += len(v)
	case json.Number:
		n += len(v)
	}
	return n
}

// checkSize refuses a section that became too large.
func checkSize(values object, name string, limit int) error {
	if n := measure(values); n > limit {
		return wrong("TWIN-26, TWIN-33", "the %s would have %d bytes, the limit is %d", name, n, limit)
	}
	if n := bulk(values); n > maxBulk {
		return wrong("TWIN-33", "the %s would take %d bytes of JSON, the limit is %d", name, n, maxBulk)
	}
	return nil
}

// textSize is the UTF-8 length without control characters.
func textSize(s string) int {
	n := 0
	for _, r := range s {
		if !isControl(r) {
			n += utf8.RuneLen(r)
		}
	}
	return n
}

// merge is old with the members of patch added or replaced: objects merge, null deletes, anything else
// replaces (TWIN-11).
func merge(old, patch object) object {
	merged := make(object, len(old)+len(patch))
	maps.Copy(merged, old)
	for key, value := range patch {
		switch v := value.(type) {
		case nil:
			delete(merged, key)
		case object:
			inner, _ := merged[key].(object)
			merged[key] = merge(inner, v)
		default:
			merged[key] = v
		}
	}
	return merged
}

// stamp is old with what patch touches marked as of now; value is the patch or one of its members.
func (old *stamps) stamp(value any, at time.Time, version uint64) *stamps {
	fresh := &stamps{At: at, Version: version}
	patch, ok := value.(object)
	if !ok {
		return fresh
	}
	fresh.In = map[string]*stamps{}
	if old != nil {
		maps.Copy(fresh.In, old.In)
	}
	for key, inner := range patch {
		if inner == nil {
			delete(fresh.In, key)
		} else {
			fresh.In[key] = fresh.In[key].stamp(inner, at, version)
		}
	}
	return fresh
}

// append writes the form of $metadata, names in their order. What was never written has no version.
func (s *stamps) append(b []byte) ([]byte, error) {
	b = s.At.UTC().AppendFormat(append(b, `{"$lastUpdated":"`...), time.RFC3339Nano+`"`)
	if s.Version > 0 {
		b = strconv.AppendUint(append(b, `,"$lastUpdatedVersion":`...), s.Version, 10)
	}
	for _, key := range slices.Sorted(maps.Keys(s.In)) {
		name, err := json.Marshal(key)
		if err != nil {
			return nil, err
		}
		b = append(append(append(b, ','), name...), ':')
		if b, err = s.In[key].append(b); err != nil {
			return nil, err
		}
	}
	return append(b, '}'), nil
}

// appendObject writes o in the order of its names, with "$version" at the end if it is not 0.
func appendObject(b []byte, o object, version uint64) ([]byte, error) {
	text := bytes.NewBuffer(b)
	encoder := json.NewEncoder(text)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(o); err != nil {
		return nil, err
	}
	b = bytes.TrimSuffix(text.Bytes(), []byte{'\n'})
	if version == 0 {
		return b, nil
	}
	b = b[:len(b)-1]
	if len(o) > 0 {
		b = append(b, ',')
	}
	b = append(b, `"$version":`...)
	return append(strconv.AppendUint(b, version, 10), '}'), nil
}
