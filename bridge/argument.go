package bridge

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	gateway "iothub-gateway"
)

// argument is the value that a call of a writing method wants written, checked against the rule of
// its point. Its errors say what is wrong and, for a payload of the wrong form, what would be right.
func (m *method) argument(payload []byte) (gateway.Value, error) {
	var v gateway.Value
	if m.From == "" {
		if err := m.noArgument(payload); err != nil && !m.anyBody {
			return v, err
		}
		if m.Value != nil { // a mapping gives one of From and Value; without either the rule refuses
			v = *m.Value
		}
		return v, allowed(m.rule, v)
	}
	raw, err := member(payload, m.From)
	if err != nil {
		return v, fmt.Errorf("%w; send %s", err, m.example())
	}
	v, err = gateway.ParseValue(raw)
	if err != nil { // its text repeats the payload, which may be long
		return v, fmt.Errorf("%q is %s; send %s", m.From, cut(string(raw)), m.example())
	}
	return v, allowed(m.rule, v)
}

// example is a payload that the method would accept.
func (m *method) example() string {
	b := append(appendText([]byte(`{`), m.From), `: `...)
	switch r := m.rule; {
	case len(r.Words) > 0:
		b = appendText(b, r.Words[0])
	case r.Min != nil:
		b = gateway.FloatValue(*r.Min).AppendJSON(b)
	case r.Max != nil:
		b = gateway.FloatValue(*r.Max).AppendJSON(b)
	default:
		b = append(b, `true`...)
	}
	return string(append(b, '}'))
}

// noArgument refuses a payload for a method that takes none: the caller expects something of it
// that will not happen. The hub's ways to send nothing are an empty payload, null, "" and {} (METH-9).
func (m *method) noArgument(payload []byte) error {
	var compact bytes.Buffer
	if len(bytes.TrimSpace(payload)) > 0 {
		if err := json.Compact(&compact, payload); err != nil {
			return fmt.Errorf("the payload is not JSON; method %q takes no argument, send none", m.Name)
		}
	}
	switch compact.String() {
	case ``, `null`, `""`, `{}`:
		return nil
	}
	return fmt.Errorf("method %q takes no argument; send none, or {}", m.Name)
}

// member finds a member of a JSON object. A name that occurs twice is refused: nobody knows which of
// the two values the caller meant.
func member(payload []byte, name string) (json.RawMessage, error) {
	if len(bytes.TrimSpace(payload)) == 0 {
		return nil, errors.New("the payload is empty")
	}
	if !json.Valid(payload) {
		return nil, errors.New("the payload is not JSON")
	}
	d := json.NewDecoder(bytes.NewReader(payload))
	if token, err := d.Token(); err != nil || token != json.Delim('{') {
		return nil, errors.New("the payload is not a JSON object")
	}
	var found json.RawMessage
	for d.More() {
		var raw json.RawMessage
		key, err := d.Token()
		if err == nil {
			err = d.Decode(&raw)
		}
		switch {
		case err != nil:
			return nil, fmt.Errorf("the payload is not JSON: %w", err)
		case key != json.Token(name):
		case found != nil:
			return nil, fmt.Errorf("the payload has %q twice", name)
		default:
			found = raw
		}
	}
	if found == nil {
		return nil, fmt.Errorf("the payload has no %q", name)
	}
	return found, nil
}

// allowed checks a value against a rule (MB-70, MB-72). Its errors name the limit.
func allowed(r *gateway.WriteRule, v gateway.Value) error {
	refuse := func(format string, args ...any) error {
		return fmt.Errorf("value %s %s", cut(string(v.AppendJSON(nil))), fmt.Sprintf(format, args...))
	}
	n, number := v.Number()
	switch {
	case r.Words != nil:
		if word, text := v.Text(); !text || !slices.Contains(r.Words, word) {
			return refuse("is not one of %s", quoted(r.Words))
		}
	case r.Min != nil || r.Max != nil:
		switch {
		case !number:
			return refuse("is not a number")
		case r.Min != nil && n < *r.Min:
			return refuse("is below the minimum %s", gateway.FloatValue(*r.Min))
		case r.Max != nil && n > *r.Max:
			return refuse("is above the maximum %s", gateway.FloatValue(*r.Max))
		}
	case v.Kind() != gateway.Bool && v.Kind() != gateway.Text:
		return refuse("is not true or false, and the mapping allows no number here")
	}
	return nil
}

// quoted lists words as JSON strings.
func quoted(words []string) string {
	list := make([]string, len(words))
	for i, w := range words {
		list[i] = string(appendText(nil, w))
	}
	return strings.Join(list, ", ")
}

// cut shortens a text that somebody else chose to what an error can show.
func cut(s string) string {
	const most = 60
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "..."
}
