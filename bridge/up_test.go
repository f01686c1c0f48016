package bridge

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	gateway "iothub-gateway"
)

// disk keeps what was put, in order; it can be told to fail.

type disk struct {
	mu       sync.Mutex // guards the fields below
	fail     error
	full     []gateway.IdentityID // whose messages it refuses
	messages []gateway.Telemetry
	calls    int
}

func (d *disk) PutWithin(_ context.Context, _ time.Duration, ts ...gateway.Telemetry) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.calls++
	if d.fail != nil {
		return d.fail
	}
	var refused gateway.FullError
	for _, m := range ts {
		switch {
		case !slices.Contains(d.full, m.Identity):
			d.messages = append(d.messages, m)
		case !slices.Contains(refused.Identities, m.Identity):
			refused.Identities = append(refused.Identities, m.Identity)
		}
	}
	if refused.Identities != nil {
		return fmt.Errorf("buffer: %w", &refused)
	}
	return nil
}

func (*disk) Hurry() {}

// storing is a store that is one function and never waits.

type storing func(ctx context.Context, ts ...gateway.Telemetry) error

func (p storing) PutWithin(ctx context.Context, _ time.Duration, ts ...gateway.Telemetry) error {
	return p(ctx, ts...)
}

func (storing) Hurry() {}

// taken returns "identity body" of every message since the last call.

func (d *disk) taken() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	var lines []string
	for _, m := range d.messages {
		lines = append(lines, fmt.Sprintf("%s %s", m.Identity, m.Body))
	}
	d.messages = nil
	return lines
}

// field makes a point "device/field" of an identity called device.

func field(device, name string) gateway.Point {
	return gateway.Point{ID: gateway.PointID(device + "/" + name), Identity: gateway.IdentityID(device), Field: name}
}

func sample(id gateway.PointID, v gateway.Value, after time.Duration) gateway.Sample {
	return gateway.Sample{Point: id, Value: v, Time: noon.Add(after)}
}

func failed(id gateway.PointID, err error, after time.Duration) gateway.Sample {
	return gateway.Sample{Point: id, Err: fmt.Errorf("modbus: %w", err), Time: noon.Add(after)}
}

func accept(t *testing.T, u *Up, samples ...gateway.Sample) {
	t.Helper()
	if err := u.Accept(context.Background(), samples); err != nil {
		t.Fatal(err)
	}
}

func expect(t *testing.T, d *disk, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, d.taken()); diff != "" {
		t.Errorf("messages (-want +got):\n%s", diff)
	}
}

func TestACallMakesOneMessageAnIdentityInTheOrderOfThePlant(t *testing.T) {
	var d disk
	u := NewUp(
		[]gateway.Point{field("boiler", "flow"), field("press", "oil"), field("boiler", "return"), field("boiler", `odd "name"`)},
		[]gateway.Identity{
			{ID: "press"},
			{ID: "boiler", Properties: []gateway.Property{{Name: "site", Value: "plant7"}}},
		}, &d)
	accept(t, u,
		sample(`boiler/odd "name"`, gateway.TextValue("a\"b"), 3*time.Second),
		sample("boiler/return", float(40.5), 5*time.Second),
		sample("press/oil", gateway.IntValue(61), 1*time.Second),
		sample("boiler/flow", gateway.BoolValue(true), 2*time.Second))
	if d.calls != 1 || len(d.messages) != 2 {
		t.Fatalf("%d calls of Put with %d messages", d.calls, len(d.messages))
	}
	press, boiler := d.messages[0], d.messages[1]
	if !boiler.Created.Equal(noon.Add(5*time.Second)) || !press.Created.Equal(noon.Add(time.Second)) {
		t.Errorf("created %v and %v", boiler.Created, press.Created)
	}
	if len(press.Properties) != 0 || !slices.Equal(boiler.Properties, []gateway.Property{{Name: "site", Value: "plant7"}}) {
		t.Errorf("properties %v and %v", press.Properties, boiler.Properties)
	}
	expect(t, &d,
		`press {"oil":61}`,
		`boiler {"flow":true,"return":40.5,"odd \"name\"":"a\"b"}`)
}

func TestBodiesTellQualityAndNeverANumberForASentinel(t *testing.T) {
	a, b := gateway.PointID("x/a"), gateway.PointID("x/b")
	doubtful := sample(a, gateway.TextValue("17"), 0)
	doubtful.Err = fmt.Errorf("modbus: %w", gateway.ErrOutOfRange)
	sentinel := sample(a, gateway.IntValue(-32768), 0)
	sentinel.Err = gateway.ErrNotAvailable
	for _, c := range []struct {
		samples []gateway.Sample
		want    string
	}{
		{[]gateway.Sample{sample(a, float(1.5), 0), sample(b, float(2), 0)}, `{"a":1.5,"b":2}`},
		{[]gateway.Sample{failed(a, gateway.ErrNoAnswer, 0), sample(b, float(2), 0)}, `{"b":2,"_quality":{"a":"comm"}}`},
		{[]gateway.Sample{failed(a, gateway.ErrNoAnswer, 0)}, `{"_quality":{"a":"comm"}}`},
		{[]gateway.Sample{failed(a, &gateway.Refusal{Code: "2"}, 0), failed(b, gateway.ErrNotAvailable, 0)},
			`{"_quality":{"a":"device","b":"not available"}}`},
		{[]gateway.Sample{doubtful}, `{"a":"17","_quality":{"a":"out of range"}}`},
		{[]gateway.Sample{sentinel}, `{"_quality":{"a":"not available"}}`},
		{[]gateway.Sample{{Point: a, Time: noon}}, `{"_quality":{"a":"not available"}}`},
		{[]gateway.Sample{sample(a, gateway.ObjectValue(`{"run":true}`), 0)}, `{"a":{"run":true}}`},
		{[]gateway.Sample{sample(a, gateway.UintValue(18446744073709551615), 0)}, `{"a":18446744073709551615}`},
	} {
		var d disk
		u := NewUp([]gateway.Point{field("x", "a"), field("x", "b")}, nil, &d)
		accept(t, u, c.samples...)
		if !json.Valid(d.messages[0].Body) {
			t.Errorf("not JSON: %s", d.messages[0].Body)
		}
		expect(t, &d, "x "+c.want)
	}
}

func TestNothingDueMakesNoMessage(t *testing.T) {
	var d disk
	u := NewUp([]gateway.Point{field("x", "a"), field("x", "b")}, nil, &d)
	accept(t, u)
	accept(t, u, sample("x/a", float(1), 0), sample("x/b", float(1), 0))
	accept(t, u, sample("x/a", float(1), time.Second), sample("x/b", float(2), time.Second))
	accept(t, u, sample("x/a", float(1), 2*time.Second), sample("x/b", float(2), 2*time.Second))
	expect(t, &d, `x {"a":1,"b":1}`, `x {"b":2}`)
	if d.calls != 2 {
		t.Errorf("%d calls of Put", d.calls)
	}
}

func TestTwoReadingsOfOnePointAreTwoMessages(t *testing.T) {
	var d disk
	temp, hum := field("env", "temp"), field("env", "hum")
	temp.Publish.On, hum.Publish.On = gateway.OnPoll, gateway.OnPoll
	u := NewUp([]gateway.Point{temp, hum}, nil, &d)
	pack := []gateway.Sample{
		sample("env/hum", float(60), 0), sample("env/temp", float(20), 0),
		sample("env/hum", float(60), time.Minute), sample("env/temp", float(20), time.Minute),
		sample("env/hum", float(61), 2*time.Minute),
	}
	if err := u.Accept(context.Background(), pack); err != nil {
		t.Fatal(err)
	}
	for i, m := range d.messages {
		if want := noon.Add(time.Duration(i) * time.Minute); !m.Created.Equal(want) {
			t.Errorf("message %d was created at %v, want %v", i, m.Created, want)
		}
	}
	if d.calls != 1 {
		t.Errorf("%d calls of Put", d.calls)
	}
	expect(t, &d, `env {"temp":20,"hum":60}`, `env {"temp":20,"hum":60}`, `env {"hum":61}`)
}

func TestARepeatedReadingIsJudgedByTheOneBeforeItInTheSameCall(t *testing.T) {
	d := disk{fail: errors.New("disk full")}
	u := NewUp([]gateway.Point{field("x", "a")}, nil, &d)
	pack := []gateway.Sample{sample("x/a", float(1), 0), sample("x/a", float(1), 1), sample("x/a", float(2), 2), sample("x/a", float(1), 3)}
	if err := u.Accept(context.Background(), pack); err == nil {
		t.Fatal("no error")
	}
	d.fail = nil
	accept(t, u, pack...)
	expect(t, &d, `x {"a":1}`, `x {"a":2}`, `x {"a":1}`)
}

func TestHiddenAndLocalPointsAreReadButNeverReported(t *testing.T) {
	var d disk
	hidden, local := field("x", "a"), field("", "b")
	hidden.Hidden = true
	u := NewUp([]gateway.Point{hidden, local}, nil, &d)
	if _, ok := u.Latest("x/a"); ok {
		t.Error("a reading before the first one")
	}
	if _, ok := u.Latest("no/such"); ok {
		t.Error("a reading of a point that does not exist")
	}
	accept(t, u, sample("x/a", float(1), 0), sample("/b", float(2), 0))
	for id, want := range map[gateway.PointID]gateway.Value{"x/a": float(1), "/b": float(2)} {
		if s, ok := u.Latest(id); !ok || s.Value != want {
			t.Errorf("latest of %s is %v %v", id, s, ok)
		}
	}
	expect(t, &d)
	if s := u.Stats(); d.calls != 0 || s.Private != 2 || s.Samples != 2 {
		t.Errorf("%d calls of Put, stats %+v", d.calls, s)
	}
}

func TestRangeAndWrapApplyBeforeAnythingIsReported(t *testing.T) {
	var d disk
	mark, clamp, drop, count := field("x", "mark"), field("x", "clamp"), field("x", "drop"), field("x", "count")
	mark.Range = &gateway.Range{Max: 10}
	clamp.Range = &gateway.Range{Max: 10, Mode: gateway.RangeClamp}
	drop.Range = &gateway.Range{Max: 10, Mode: gateway.RangeDrop}
	count.Wrap = 100
	u := NewUp([]gateway.Point{mark, clamp, drop, count}, nil, &d)
	read := func(v, counted float64, at time.Duration) {
		accept(t, u, sample("x/mark", float(v), at), sample("x/clamp", float(v), at), sample("x/drop", float(v), at),
			sample("x/count", float(counted), at))
	}
	read(9, 95, 0)
	read(11, 5, time.Second)
	read(12, 6, 2*time.Second)
	read(9, 2, 3*time.Second) // back to good, and another meter
	expect(t, &d,
		`x {"mark":9,"clamp":9,"drop":9,"count":95}`,
		`x {"mark":11,"clamp":10,"count":105,"_quality":{"mark":"out of range"}}`,
		`x {"mark":12,"count":106,"_quality":{"mark":"out of range"}}`,
		`x {"mark":9,"clamp":9,"count":2}`)
	want := UpStats{Samples: 16, Reported: 12, Suppressed: 2, Dropped: 2, Bad: 4, Messages: 4, Replaced: 1}
	if diff := cmp.Diff(want, u.Stats()); diff != "" {
		t.Errorf("stats (-want +got):\n%s", diff)
	}
}

func TestAnUnknownPointIsAnErrorAndKeepsTheOthers(t *testing.T) {
	var d disk
	u := NewUp([]gateway.Point{field("x", "a")}, nil, &d)
	err := u.Accept(context.Background(), []gateway.Sample{sample("x/typo", float(1), 0), sample("x/a", float(1), 0)})
	if !errors.Is(err, gateway.ErrUnknownPoint) || !strings.Contains(err.Error(), "x/typo") {
		t.Errorf("Accept returned %v", err)
	}
	expect(t, &d, `x {"a":1}`)
}

func TestALongMessageIsContinuedInTheNext(t *testing.T) {
	var d disk
	var points []gateway.Point
	var samples []gateway.Sample
	for i := range 9000 {
		p := field("x", fmt.Sprintf("point_%04d", i))
		points = append(points, p)
		samples = append(samples, sample(p.ID, float(float64(i)), 0))
	}
	u := NewUp(points, nil, &d)
	accept(t, u, samples...)
	seen := make(map[string]float64)
	for _, m := range d.messages {
		var fields map[string]float64
		if err := json.Unmarshal(m.Body, &fields); err != nil || len(m.Body) > maxBody+100 {
			t.Fatalf("%d bytes, %v", len(m.Body), err)
		}
		for k, v := range fields {
			seen[k] = v
		}
	}
	if len(seen) != len(points) || len(d.messages) != 3 || d.calls != 1 {
		t.Errorf("%d fields in %d messages, %d calls", len(seen), len(d.messages), d.calls)
	}
}

// patient is a store that takes its time unless it is hurried.

// Ten links report as one identity, one after the other: each would wait for the patience of all before it.
