package control

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"
)

// QueuePage is the answer to GET /queue: the store-and-forward queue and all of its lanes.
type QueuePage struct {
	QueueStatus
	// Lanes are in the order of their names; those that are empty and not in the mapping are left out.
	Lanes []LaneStatus `json:"lanes"`
}

// LaneStatus is one identity's part of the queue. What only a running gateway knows is left out when
// none runs.
type LaneStatus struct {
	Identity string    `json:"identity"`
	Entries  int64     `json:"entries"` // waiting for the hub
	Bytes    int64     `json:"bytes"`   // of those entries
	Oldest   time.Time `json:"oldest,omitzero"`
	// In and Out are messages a second, averaged over the last minute.
	In        *float64 `json:"in,omitempty"`
	Out       *float64 `json:"out,omitempty"`
	Dropped   uint64   `json:"dropped"` // by a limit, by the operator or lost to damage; each in a gap message
	LastError string   `json:"last_error,omitempty"`
}

// QueueEntry is one message that waits: a line of GET /queue/entries.
type QueueEntry struct {
	Identity   string            `json:"identity"`
	ID         string            `json:"id"`    // the message id
	First      uint64            `json:"first"` // first and last sequence in the lane; equal but for a gap
	Last       uint64            `json:"last"`
	Created    time.Time         `json:"created"`
	Gap        bool              `json:"gap,omitempty"` // it stands for dropped entries
	Properties map[string]string `json:"properties,omitempty"`
	Body       json.RawMessage   `json:"body"`
}

// DeadLetter is an entry that the hub never took, or a line of the answer to GET /queue/dead.
type DeadLetter struct {
	ID         string            `json:"id"` // the message id
	Identity   string            `json:"identity"`
	Reason     string            `json:"reason"`
	Time       time.Time         `json:"time"` // when it was given up
	Created    time.Time         `json:"created"`
	Properties map[string]string `json:"properties,omitempty"`
	Body       json.RawMessage   `json:"body"`
}

// JSONBody is a message's body as JSON: itself, or as a text if it is none.
func JSONBody(body []byte) json.RawMessage {
	if json.Valid(body) {
		return body
	}
	text, err := json.Marshal(string(body))
	if err != nil { // a string always can be
		return json.RawMessage("null")
	}
	return text
}

// streamItem is one line of a stream: a value, or why there are no more.
type streamItem struct {
	Value json.RawMessage `json:"value,omitempty"`
	Error string          `json:"error,omitempty"`
}

// streamPatience is how long a client may take for what it has been sent.
const streamPatience = 30 * time.Second

// WriteStream answers a request with as many values as produce has, each sent as it comes. An error of
// produce is told to the client behind the last value.
func WriteStream(w http.ResponseWriter, produce func(send func(v any) error) error) {
	w.Header().Set("Content-Type", "application/x-ndjson")
	out := bufio.NewWriterSize(w, 64<<10)
	encoder := json.NewEncoder(out)
	control := http.NewResponseController(w)
	sent := 0
	err := produce(func(v any) error {
		value, err := json.Marshal(v)
		if err != nil {
			return err
		}
		if sent++; sent%256 == 1 { // the server's own limit is for a whole answer
			if err := control.SetWriteDeadline(time.Now().Add(streamPatience)); err != nil {
				return err
			}
		}
		return encoder.Encode(streamItem{Value: value})
	})
	if err != nil {
		_ = encoder.Encode(streamItem{Error: err.Error()}) // the client may be the one who went away
	}
	_ = out.Flush()
}

// Stream asks for resource and calls each with every value of the answer until there are no more. It
// returns the daemon's error, or that of each, which ends the stream.
func (c *Client) Stream(ctx context.Context, resource string, each func(json.RawMessage) error) error {
	answer, err := c.do(ctx, http.MethodGet, resource, nil)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	decoder := json.NewDecoder(answer.Body)
	for {
		var item streamItem
		err := decoder.Decode(&item)
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("%s%s: the answer ends too early: %w", c.path, resource, err)
		case item.Error != "":
			return errors.New(item.Error)
		}
		if err := each(item.Value); err != nil {
			return err
		}
	}
}

// Post sends v to resource and decodes the answer into answer, unless that is nil.
func (c *Client) Post(ctx context.Context, resource string, v, answer any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	response, err := c.do(ctx, http.MethodPost, resource, body)
	if err != nil {
		return err
	}
	return decode(response, c.path+resource, answer)
}
