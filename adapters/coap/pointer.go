package coap

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	gateway "iothub-gateway"
)

// pointer is a JSON pointer (RFC 6901): the member names and indices on the way to a value.
type pointer []string

// CheckPointer says what is wrong with a JSON pointer, such as "/a/0/b~1c"; nil for a good one.
func CheckPointer(s string) error {
	if s != "" && s[0] != '/' {
		return fmt.Errorf("coap: json pointer %q: must start with /", s)
	}
	for i, c := range s {
		if c == '~' && !strings.HasPrefix(s[i+1:], "0") && !strings.HasPrefix(s[i+1:], "1") {
			return fmt.Errorf("coap: json pointer %q: write ~0 for ~ and ~1 for / inside a name", s)
		}
	}
	return nil
}

// pointerOf splits a good JSON pointer. "" is the whole document.
func pointerOf(s string) pointer {
	if s == "" {
		return nil
	}
	tokens := strings.Split(strings.TrimPrefix(s, "/"), "/")
	for i, t := range tokens {
		tokens[i] = strings.ReplaceAll(strings.ReplaceAll(t, "~1", "/"), "~0", "~")
	}
	return tokens
}

// follow walks from the document to the value, and tells whether there is one.
func (p pointer) follow(document any) (any, bool) {
	at := document
	for _, token := range p {
		switch node := at.(type) {
		case map[string]any:
			next, ok := node[token]
			if !ok {
				return nil, false
			}
			at = next
		case []any:
			i, err := strconv.ParseUint(token, 10, 31)
			leadingZero := len(token) > 1 && token[0] == '0'
			if err != nil || leadingZero || int(i) >= len(node) {
				return nil, false
			}
			at = node[i]
		default:
			return nil, false
		}
	}
	return at, true
}

// parseJSON reads one JSON text. Numbers keep their digits.
func parseJSON(body []byte) (any, error) {
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	var document any
	if err := d.Decode(&document); err != nil {
		return nil, errJSON
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errJSON
	}
	return document, nil
}

// errJSON names no byte of the body: it goes out as a diagnostic payload.
var errJSON = errors.New("not json")

// valueOf makes a value of what a pointer found.
func valueOf(found any) (gateway.Value, error) {
	switch x := found.(type) {
	case bool:
		return gateway.BoolValue(x), nil
	case string:
		return gateway.TextValue(x), nil
	case json.Number:
		return gateway.ParseValue([]byte(x))
	case map[string]any:
		object, err := json.Marshal(x)
		if err != nil {
			return gateway.Value{}, errJSON
		}
		return gateway.ObjectValue(string(object)), nil
	case nil:
		return gateway.Value{}, gateway.ErrNotAvailable
	}
	return gateway.Value{}, fmt.Errorf("%w: an array is not a value", gateway.ErrRange)
}
