package hubsim

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"sync"
	"time"
)

// twin is what the hub and a device, or a module, tell each other by way of documents: the device writes
// reported properties, the service side writes desired properties and tags.
type twin struct {
	mu   sync.Mutex // guards the fields below; notifications leave in the order of their versions
	gone bool       // its device was deleted: nothing of it is stored any more
	twinState
}

// twinState is a twin as it is kept.
type twinState struct {
	// Changes counts every accepted change, Edits those of the service side: version and etag (TWIN-34).
	Changes  uint64  `json:"changes"`
	Edits    uint64  `json:"edits"`
	Tags     object  `json:"tags,omitempty"`
	Desired  section `json:"desired"`
	Reported section `json:"reported"`
	// Model is the Plug and Play model that the client announced last.
	Model string `json:"model,omitempty"`
}

// section is one side's properties.
type section struct {
	Values  object  `json:"values,omitempty"`
	Stamps  *stamps `json:"stamps,omitempty"`
	Version uint64  `json:"version"`
}

// twinKind is the kind of the state that holds a twinState, by identityName.
const twinKind = "twin"

// freshTwin is the twin of an identity that was just registered (TWIN-34).
func freshTwin() twinState {
	return twinState{Changes: 2, Edits: 1, Desired: section{Version: 1}, Reported: section{Version: 1}}
}

// load takes over what was stored; numbers stay as they were written.
func (t *twinState) load(text []byte) error {
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	return decoder.Decode(t)
}

// etag is the twin's entity tag: a counter in base64.
func (t *twinState) etag() string {
	return base64.StdEncoding.EncodeToString(binary.BigEndian.AppendUint64(nil, t.Edits))
}

// change is s after patch; replace drops what s held before. Nothing changes if it does not fit.
func (s section) change(patch object, replace bool, at time.Time) (section, error) {
	if replace {
		s.Values, s.Stamps = nil, nil
	}
	s.Version++
	s.Values = merge(s.Values, patch)
	s.Stamps = s.Stamps.stamp(patch, at, s.Version)
	return s, checkSize(s.Values, "properties", maxSection)
}

// report applies a reported patch and returns it (TWIN-7 to TWIN-11). base is the version that the device knows, nil if
// it does not say (TWIN-18).
func (t *twinState) report(text []byte, base *uint64, at time.Time) (patch object, err error) {
	if patch, err = parseObject(text); err != nil {
		return nil, err
	}
	if err := checkPatch(patch, "reported"); err != nil {
		return nil, err
	}
	if base != nil && *base != t.Reported.Version {
		return nil, apiError(errPrecondition).because("the version of the reported properties is another")
	}
	reported, err := t.Reported.change(patch, false, at)
	if err != nil {
		return nil, err
	}
	t.Reported = reported
	t.Changes++
	return patch, nil
}

// edit is a change from the service side. A nil section is left alone.
type edit struct {
	tags, desired object
	replace       bool
}

// apply does an edit as a whole or not at all.
func (t *twinState) apply(e edit, at time.Time) error {
	next := *t
	if e.tags != nil {
		if e.replace {
			next.Tags = nil
		}
		next.Tags = merge(next.Tags, e.tags)
		if err := checkSize(next.Tags, "tags", maxTags); err != nil {
			return err
		}
	}
	if e.desired != nil {
		var err error
		if next.Desired, err = next.Desired.change(e.desired, e.replace, at); err != nil {
			return err
		}
	}
	next.Changes++
	next.Edits++
	*t = next
	return nil
}

// properties is the body of an answer to GET (TWIN-5).
func (t *twinState) properties() ([]byte, error) {
	b, err := appendObject([]byte(`{"desired":`), t.Desired.values(), t.Desired.Version)
	if err != nil {
		return nil, err
	}
	b = append(b, `,"reported":`...)
	if b, err = appendObject(b, t.Reported.values(), t.Reported.Version); err != nil {
		return nil, err
	}
	return append(b, '}'), nil
}

// values is never nil, which would be null in JSON.
func (s section) values() object {
	if s.Values == nil {
		return object{}
	}
	return s.Values
}

// withMetadata is the section as the service side sees it.
func (s section) withMetadata() (json.RawMessage, error) {
	values, err := appendObject(nil, s.values(), s.Version) // has $version at least
	if err != nil {
		return nil, err
	}
	metadata := s.Stamps
	if metadata == nil {
		metadata = &stamps{}
	}
	b, err := metadata.append([]byte(`{"$metadata":`))
	if err != nil {
		return nil, err
	}
	return append(append(b, ','), values[1:]...), nil
}
