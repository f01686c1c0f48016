package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"iothub-gateway/hubsim"
)

// watchKinds are what there is to be watched.
func watchKinds() []string {
	return []string{"message", "connection", "twin", "device", "method", "all"}
}

// watchOptions are the flags of watch.
type watchOptions struct {
	identity          string
	kinds, properties []string
	after             int64 // a sequence; less than 0 is from now on
	stored            bool
	count             int
}

func hubWatchCommand(io streams, o *hubOptions) *cobra.Command {
	var w watchOptions
	c := &cobra.Command{
		Use:   "watch [DEVICE[/MODULE]]",
		Short: "Watch what arrives at the simulator, as it comes",
		Long: `watch shows messages as they arrive at the running simulator, one on a line: when, from whom, the fields,
and how long it took from the reading to the hub. With --kind it shows what else happens: connections,
changes of twins and of the registry, method calls. With --stored it lists the messages that the simulator
has kept, and ends. It goes on over a restart of the simulator, until Ctrl-C.

(IoT Hub hands messages out at its built-in endpoint, which speaks AMQP only: there use az iot hub
monitor-events.)`,
		Example: `  gateway hub watch
  gateway hub watch boiler-plc --kind all
  gateway hub watch --property alert=true --json
  gateway hub watch --stored --json | jq -c .body
  gateway hub watch --after 4711`,
		Args:              words(cobra.MaximumNArgs(1)),
		ValidArgsFunction: completeIdentities(o, nil),
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) == 1 {
				w.identity = args[0]
			}
			if w.stored && w.kinds != nil {
				return &failure{exitUsage, errors.New("only messages are stored: --stored goes without --kind")}
			}
			watch := watch{watchOptions: w, hub: o.client, shown: shownBy(io.out, o.asJSON), problems: io.err, last: strconv.FormatInt(w.after, 10)}
			if w.stored {
				return ended(watch.list(c.Context()))
			}
			if w.after < 0 {
				watch.last = "now"
			}
			return ended(watch.follow(c.Context()))
		},
	}
	f := c.Flags()
	f.StringSliceVar(&w.kinds, "kind", nil, "what to show: "+strings.Join(watchKinds(), ", ")+" (default message)")
	f.StringArrayVarP(&w.properties, "property", "p", nil, "only messages with this property NAME or NAME=VALUE; may be repeated")
	f.Int64Var(&w.after, "after", -1, "begin behind this sequence; 0 is the beginning (default: now)")
	f.BoolVar(&w.stored, "stored", false, "list what is stored, and end")
	f.IntVar(&w.count, "count", 0, "end after so many lines")
	f.Lookup("after").DefValue = ""
	_ = c.RegisterFlagCompletionFunc("kind", oneOf(watchKinds()...))
	return c
}

// watch is one run of the command.
type watch struct {
	watchOptions
	hub      func() (*hubClient, error) // anew after each loss: a simulator that comes back may have other addresses and keys
	shown    func(kind string, data []byte) error
	problems io.Writer
	last     string // the sequence that was seen last, or now
	lines    int
}

// errEnough ends a watch that has shown as many lines as it should.
var errEnough = errors.New("enough")

// ended is nil for an end that was asked for.
func ended(err error) error {
	if errors.Is(err, errEnough) || errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

func (w *watch) show(kind string, data []byte) error {
	if err := w.shown(kind, data); err != nil {
		return err
	}
	if w.lines++; w.lines == w.count {
		return errEnough
	}
	return nil
}

// query says what is wanted, to either path.
func (w *watch) query() string {
	q := url.Values{"after": {w.last}, "kind": w.kinds, "property": w.properties}
	if w.identity != "" {
		q.Set("device", w.identity)
	}
	return q.Encode()
}

// client is a client of the simulator.
func (w *watch) client() (*hubClient, error) {
	hub, err := w.hub()
	if err == nil {
		err = hub.simulatorOnly("a device's messages", "use az iot hub monitor-events, which reads its built-in endpoint")
	}
	return hub, err
}

// list shows what is stored.
func (w *watch) list(ctx context.Context) error {
	w.last = strconv.FormatInt(max(0, w.after), 10)
	hub, err := w.client()
	if err != nil {
		return err
	}
	for {
		var batch []json.RawMessage
		if err := hub.do(ctx, http.MethodGet, "/hubsim/messages?"+w.query(), nil, &batch); err != nil || len(batch) == 0 {
			return err
		}
		for _, data := range batch {
			if err := w.show("message", data); err != nil {
				return err
			}
		}
		var m hubsim.Message
		if err := json.Unmarshal(batch[len(batch)-1], &m); err != nil {
			return err
		}
		w.last = strconv.FormatUint(m.Sequence, 10)
	}
}

// follow shows what comes until ctx ends, over restarts of the simulator once there was one.
func (w *watch) follow(ctx context.Context) error {
	for met := false; ; {
		hub, err := w.client()
		if err == nil {
			err = w.stream(ctx, hub, &met)
		}
		var refused *hubError
		switch {
		case ctx.Err() != nil:
			return nil
		case !met || errors.As(err, &refused) || errors.Is(err, errEnough):
			return err
		case err == errGone:
			fmt.Fprintln(w.problems, "the hub has stopped; waiting until it is back")
		}
		if !pauseFor(ctx, 300*time.Millisecond) {
			return nil
		}
	}
}

// errGone ends a stream that stood.
var errGone = errors.New("the stream ended")

// stream shows one stream of server-sent events to its end; met tells that it stood.
func (w *watch) stream(ctx context.Context, hub *hubClient, met *bool) error {
	response, err := hub.open(ctx, hubRequest{method: http.MethodGet, path: "/hubsim/messages/stream?" + w.query()})
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
		return newHubError(hub.host, response, text)
	}
	*met = true
	lines := bufio.NewScanner(response.Body)
	lines.Buffer(nil, maxAnswer)
	kind := "message"
	for lines.Scan() {
		name, value, _ := bytes.Cut(lines.Bytes(), []byte(": "))
		switch string(name) {
		case "id":
			w.last = string(value)
		case "event":
			kind = string(value)
		case "data":
			if err := w.show(kind, value); err != nil {
				return err
			}
		case "":
			kind = "message"
		}
	}
	return errGone
}

// pauseFor waits; false if ctx ended first.
func pauseFor(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}

// shownBy prints what happened: for people a line, for programs a JSON object on a line of its own, which
// says its kind.
func shownBy(w io.Writer, asJSON bool) func(kind string, data []byte) error {
	return func(kind string, data []byte) error {
		if rest, ok := bytes.CutPrefix(data, []byte("{")); ok && asJSON {
			_, err := fmt.Fprintf(w, "{\"kind\":%q,%s\n", kind, rest)
			return err
		}
		line, err := happeningLine(kind, data)
		if err == nil {
			_, err = fmt.Fprintln(w, line)
		}
		return err
	}
}

// happeningLine is what happened, for a person.
func happeningLine(kind string, data []byte) (string, error) {
	if kind == "message" {
		var m hubsim.Message
		err := json.Unmarshal(data, &m)
		return messageLine(m, 0), err
	}
	var e happening
	if err := json.Unmarshal(data, &e); err != nil {
		return "", err
	}
	if kind == "lost" {
		return fmt.Sprintf("%d more came too fast to be shown", e.Count), nil
	}
	return fmt.Sprintf("%s  %s  %s", e.Time.Local().Format("15:04:05.000"), strings.TrimSuffix(e.DeviceID+"/"+e.ModuleID, "/"), e.what(kind)), nil
}

// happening is what the simulator says of a connection, a twin, a device or a method call.
type happening struct {
	Time         time.Time       `json:"time"`
	DeviceID     string          `json:"deviceId"`
	ModuleID     string          `json:"moduleId"`
	Operation    string          `json:"operationName"`
	Protocol     string          `json:"protocol"`
	Description  string          `json:"statusDescription"`
	Milliseconds int64           `json:"durationMs"`
	Version      uint64          `json:"version"`
	Tags         json.RawMessage `json:"tags"`
	Desired      json.RawMessage `json:"desired"`
	Reported     json.RawMessage `json:"reported"`
	Status       json.RawMessage `json:"status"`
	Method       string          `json:"methodName"`
	Error        string          `json:"error"`
	Count        int             `json:"count"` // of what was lost
}

// what says what happened, in words.
func (e *happening) what(kind string) string {
	switch {
	case kind == "connection" && e.Operation == "deviceConnect" && e.Description == "":
		return "connected (" + e.Protocol + ")"
	case kind == "connection" && e.Operation == "deviceConnect":
		return "was not let in: " + e.Description
	case kind == "connection":
		took := time.Duration(e.Milliseconds) * time.Millisecond
		return strings.TrimSuffix(fmt.Sprintf("disconnected after %v: %s", took, e.Description), ": ")
	case kind == "method" && e.Error != "":
		return "method " + e.Method + ": " + strings.TrimPrefix(e.Error, "hubsim: ")
	case kind == "method":
		return fmt.Sprintf("method %s: status %s in %d ms", e.Method, e.Status, e.Milliseconds)
	case kind == "twin":
		line := fmt.Sprintf("twin version %d:", e.Version)
		for _, part := range []struct {
			name string
			text json.RawMessage
		}{{"tags", e.Tags}, {"desired", e.Desired}, {"reported", e.Reported}} {
			if part.text != nil {
				line += " " + part.name + " " + string(part.text)
			}
		}
		return line
	}
	return fmt.Sprintf("%s, %s", e.Operation, shown(e.Status))
}
