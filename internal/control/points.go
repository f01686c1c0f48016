package control

import (
	"encoding/json"
	"time"
)

// ReadRequest is the body of POST /points/read: the points that are to be read now, as DEVICE/POINT.
type ReadRequest struct {
	Points []string `json:"points"`
}

// Reading is one point of the answer, in the order asked.
type Reading struct {
	Point string          `json:"point"`
	Value json.RawMessage `json:"value"` // null if there is none
	Unit  string          `json:"unit,omitempty"`
	Takes string          `json:"takes,omitempty"` // what may be written to it, for people; "" if nothing
	Time  time.Time       `json:"time,omitzero"`
	Error string          `json:"error,omitempty"` // why there is none
}

// WriteRequest is the body of POST /points/write.
type WriteRequest struct {
	Point string `json:"point"`
	Value string `json:"value"` // as a person writes it: 65, true, auto
}

// WriteReply is what became of a write: what a direct method would have been answered.
type WriteReply struct {
	Status int             `json:"status"`
	Body   json.RawMessage `json:"body"`
}
