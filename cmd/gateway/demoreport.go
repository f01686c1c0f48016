package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"

	gateway "iothub-gateway"
	"iothub-gateway/hubsim"
	"iothub-gateway/mapping"
)

// messageLine shows one arrived message: when, whose, what, and how long it took from the reading to
// the hub.
func messageLine(m hubsim.Message, width int) string {
	age := ""
	if created, err := time.Parse(time.RFC3339Nano, m.System["iothub-creation-time-utc"]); err == nil {
		age = fmt.Sprintf("  (%d ms)", max(0, m.Enqueued.Sub(created).Milliseconds()))
	}
	return fmt.Sprintf("%s  %-*s  %s%s", m.Enqueued.Local().Format("15:04:05.000"), width, identityOf(m), fields(m.Body), age)
}

// fields is a JSON object as "name=value name=value", in its own order; anything else as it is.
func fields(body []byte) string {
	decoder := json.NewDecoder(bytes.NewReader(body))
	if start, err := decoder.Token(); err != nil || start != json.Delim('{') {
		return string(body)
	}
	var line []string
	for decoder.More() {
		name, err := decoder.Token()
		if err != nil {
			return string(body)
		}
		var value json.RawMessage
		if err := decoder.Decode(&value); err != nil {
			return string(body)
		}
		line = append(line, fmt.Sprintf("%s=%s", name, value))
	}
	return strings.Join(line, " ")
}

// sampleCall is a method of the plant that can be tried, with a value that its limits allow.
func sampleCall(plant *mapping.Plant) (gateway.Method, gateway.Value, bool) {
	rules := map[gateway.PointID]*gateway.WriteRule{}
	for _, p := range plant.Points {
		rules[p.ID] = p.Write
	}
	for _, m := range plant.Methods {
		rule := rules[m.Write]
		if m.From == "" || rule == nil {
			continue
		}
		switch {
		case len(rule.Words) > 0:
			return m, gateway.TextValue(rule.Words[0]), true
		case rule.Min != nil && rule.Max != nil:
			return m, gateway.IntValue(int64(math.Round((*rule.Min + *rule.Max) / 2))), true
		}
	}
	return gateway.Method{}, gateway.Value{}, false
}

// methodCall is the demo's own try of a direct method.
type methodCall struct {
	method  gateway.Method
	value   gateway.Value
	took    time.Duration
	status  int
	problem string // "" if the device holds the value now
}

func (c *methodCall) String() string {
	result := fmt.Sprintf("status %d in %.1f ms; the register of %s holds %s now", c.status, milliseconds(c.took), c.method.Write, c.value)
	if c.problem != "" {
		result = c.problem
	}
	return fmt.Sprintf("%s  direct method %s on %s with %s=%s: %s", time.Now().Format("15:04:05.000"),
		c.method.Name, c.method.Identity, c.method.From, c.value, result)
}

// callMethod calls the sample method through the hub and looks into the simulated device whether the
// value has arrived there. nil if the plant has no such method.
func (d *demo) callMethod(ctx context.Context) *methodCall {
	method, value, ok := sampleCall(d.plant)
	if !ok {
		return nil
	}
	payload, err := json.Marshal(map[string]gateway.Value{method.From: value})
	if err != nil {
		return &methodCall{method: method, value: value, problem: err.Error()}
	}
	start := time.Now()
	answer, err := d.hub.CallMethod(ctx, hubsim.MethodCall{
		Device: method.Identity.Device(), Module: method.Identity.Module(), Name: method.Name, Payload: payload,
		ConnectTimeout: 10 * time.Second, ResponseTimeout: 10 * time.Second,
	})
	c := &methodCall{method: method, value: value, took: time.Since(start), status: answer.Status}
	held, readErr := d.devices.Value(method.Write)
	switch {
	case err != nil:
		c.problem = err.Error()
	case answer.Status != 200:
		c.problem = fmt.Sprintf("status %d: %s", answer.Status, answer.Payload)
	case readErr != nil:
		c.problem = readErr.Error()
	case !same(held, value):
		c.problem = fmt.Sprintf("answered 200, but the device holds %s", held)
	}
	return c
}

// same compares values by what they mean: 60 and 60.0 are the same setpoint.
func same(a, b gateway.Value) bool {
	x, ok1 := a.Number()
	y, ok2 := b.Number()
	return a == b || ok1 && ok2 && math.Abs(x-y) < 1e-6
}

// summary is what a demo ends with.
type summary struct {
	Read      uint64   `json:"read"`      // readings taken from the devices
	Queued    uint64   `json:"queued"`    // messages made durable
	Delivered uint64   `json:"delivered"` // of those, at the hub
	Lost      uint64   `json:"lost"`
	Repeated  uint64   `json:"repeated"`
	FirstMS   float64  `json:"first_message_ms"` // from the start of the process to the first message
	MethodMS  *float64 `json:"method_ms"`        // round trip of the direct method; null if it failed
	Problem   string   `json:"problem,omitempty"`
}

// report prints the summary and fails unless the promise held.
func (d *demo) report() error {
	for batch := d.hub.Messages(d.tally.last, 1000); len(batch) > 0; batch = d.hub.Messages(d.tally.last, 1000) {
		for _, m := range batch {
			d.tally.take(m)
		}
	}
	produced := map[gateway.IdentityID]uint64{}
	queue := d.service.queue.Stats()
	for id, lane := range queue.Lanes {
		produced[id] = lane.Put
	}
	s := summary{
		Read: d.service.now.Load().up.Stats().Samples, Queued: queue.Put, Delivered: d.tally.delivered,
		Lost: d.tally.lost(produced), Repeated: d.tally.repeated,
	}
	if !d.first.IsZero() {
		s.FirstMS = milliseconds(d.first.Sub(d.io.started))
	}
	_, _, canCall := sampleCall(d.plant)
	switch {
	case d.called == nil && !canCall:
		// A plant that is only read has nothing to try.
	case d.called == nil:
		s.Problem = "no message arrived, so no direct method was tried"
	case d.called.problem != "":
		s.Problem = d.called.problem
	default:
		took := milliseconds(d.called.took)
		s.MethodMS = &took
	}
	if d.options.json {
		if err := json.NewEncoder(d.io.out).Encode(s); err != nil {
			return err
		}
	} else {
		d.show(s)
	}
	if s.Lost > 0 || s.Delivered == 0 || canCall && s.MethodMS == nil {
		return &failure{code: exitFailed}
	}
	return nil
}

func (d *demo) show(s summary) {
	fmt.Fprintln(d.io.out)
	t := newTable(d.io.out, "readings", "queued", "delivered", "lost", "repeated", "first message", "method")
	method := cmp.Or(s.Problem, "-")
	if s.MethodMS != nil {
		method = fmt.Sprintf("%.1f ms", *s.MethodMS)
	}
	t.AppendRow(table.Row{s.Read, s.Queued, s.Delivered, s.Lost, s.Repeated, fmt.Sprintf("%.0f ms", s.FirstMS), method})
	t.Render()
}

func milliseconds(d time.Duration) float64 {
	return math.Round(float64(d)/float64(time.Millisecond)*10) / 10
}
