package bridge

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	gateway "iothub-gateway"
)

// reads makes a device that answers every read with the samples, by point.
func reads(samples ...gateway.Sample) *plc {
	return &plc{read: func(_ context.Context, ids []gateway.PointID) ([]gateway.Sample, error) {
		var got []gateway.Sample
		for _, id := range ids {
			i := slices.IndexFunc(samples, func(s gateway.Sample) bool { return s.Point == id })
			if i < 0 {
				return got, nil
			}
			got = append(got, samples[i])
		}
		return got, nil
	}}
}

func TestAReadAnswersTheValuesOfNow(t *testing.T) {
	device := reads(sample("boiler/flow", float(21.5), 0), sample("boiler/setpoint", gateway.IntValue(65), time.Second))
	r := call(NewDown(boiler(device)), "readNow", `null`)
	if want := `{"values":{"flow":21.5,"setpoint":65},"t":"2026-03-04T12:00:01.000Z"}`; r.Status != 200 || string(r.Body) != want {
		t.Errorf("%d %s", r.Status, r.Body)
	}
	if len(device.reads) != 1 || len(device.reads[0]) != 2 {
		t.Errorf("read %v: want both points in one call", device.reads)
	}
}

func TestAReadFailsOnlyIfNoDeviceAnswered(t *testing.T) {
	refused := &gateway.Refusal{Protocol: "modbus", Code: "4", Name: "server device failure"}
	flow, setpoint := gateway.PointID("boiler/flow"), gateway.PointID("boiler/setpoint")
	for _, c := range []struct {
		name   string
		a, b   gateway.Sample
		status int
		body   string
	}{
		{"one of two", sample(flow, float(1), 0), failed(setpoint, gateway.ErrNoAnswer, 0), 200,
			`{"values":{"flow":1},"quality":{"setpoint":"comm: modbus: no answer"},"t":"2026-03-04T12:00:00.000Z"}`},
		{"no value is an answer", failed(flow, gateway.ErrNotAvailable, 0), failed(setpoint, gateway.ErrNoAnswer, 0), 200,
			`{"values":{},"quality":{"flow":"not available: modbus: the device has no value","setpoint":"comm: modbus: no answer"},"t":"2026-03-04T12:00:00.000Z"}`},
		{"no answer", failed(flow, gateway.ErrNoAnswer, 0), failed(setpoint, refused, 0), 504,
			`{"error":"no point could be read: modbus: no answer","code":"no-answer","point":"boiler/flow"}`},
		{"refused", failed(flow, refused, 0), failed(setpoint, refused, 0), 500,
			`{"error":"no point could be read: modbus: exception 4 (server device failure)","code":"refused","point":"boiler/flow",` +
				`"exception":{"protocol":"modbus","code":"4","name":"server device failure"}}`},
		{"out of time", failed(flow, context.DeadlineExceeded, 0), failed(setpoint, context.DeadlineExceeded, 0), 504,
			`{"error":"no point could be read: modbus: context deadline exceeded","code":"no-answer","point":"boiler/flow"}`},
		{"surprise", failed(flow, errors.New("surprise"), 0), failed(setpoint, errors.New("surprise"), 0), 500,
			`{"error":"no point could be read: modbus: surprise","code":"failed","point":"boiler/flow"}`},
	} {
		r := call(NewDown(boiler(reads(c.a, c.b))), "readNow", ``)
		if r.Status != c.status || string(r.Body) != c.body {
			t.Errorf("%s: %d %s", c.name, r.Status, r.Body)
		}
	}
}

func TestAReadIsJudgedByTheRangeOfItsPoint(t *testing.T) {
	cfg := boiler(reads(sample("boiler/flow", float(150), 0), sample("boiler/setpoint", float(150), 0)))
	for i := range cfg.Points {
		cfg.Points[i].Range = &gateway.Range{Max: 100, Mode: gateway.RangeDrop}
	}
	cfg.Points[0].Range.Mode = gateway.RangeMark // the setpoint
	r := call(NewDown(cfg), "readNow", ``)
	want := `{"values":{"setpoint":150},"quality":{"flow":"out of range: boiler/flow: out of range: 150 is not in 0..100",` +
		`"setpoint":"out of range: boiler/setpoint: out of range: 150 is not in 0..100"},"t":"2026-03-04T12:00:00.000Z"}`
	if r.Status != 200 || string(r.Body) != want {
		t.Errorf("%d %s", r.Status, r.Body)
	}
}

func TestADeadLineDoesNotUseUpTheTimeOfTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		alive := reads(sample("boiler/flow", float(21.5), 0))
		dead := &plc{read: func(ctx context.Context, _ []gateway.PointID) ([]gateway.Sample, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}}
		cfg := boiler(nil)
		cfg.Device = func(id gateway.PointID) Device {
			if id == "boiler/flow" {
				return alive
			}
			return dead
		}
		r := call(NewDown(cfg), "readNow", ``)
		want := `{"values":{"flow":21.5},"quality":{"setpoint":"comm: context deadline exceeded"},"t":"2026-03-04T12:00:00.000Z"}`
		if r.Status != 200 || string(r.Body) != want {
			t.Errorf("%d %s", r.Status, r.Body)
		}
	})
}

func TestAReadDuringShutdownSaysSo(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	device := &plc{read: func(ctx context.Context, _ []gateway.PointID) ([]gateway.Sample, error) {
		cancel()
		return nil, ctx.Err()
	}}
	r := NewDown(boiler(device)).Handle(ctx, gateway.Command{Identity: "boiler", Name: "readNow"})
	if r.Status != 503 || answer(t, r)["code"] != "stopping" {
		t.Errorf("%d %s", r.Status, r.Body)
	}
}

func TestAnAdapterThatLeavesPointsOutIsNoticed(t *testing.T) {
	r := call(NewDown(boiler(reads(sample("boiler/flow", float(1), 0)))), "readNow", ``)
	quality, _ := answer(t, r)["quality"].(map[string]any)
	if text, _ := quality["setpoint"].(string); r.Status != 200 || !strings.Contains(text, "gave no reading of boiler/setpoint") {
		t.Errorf("%d %s", r.Status, r.Body)
	}
	cfg := boiler(nil)
	cfg.Device = func(gateway.PointID) Device { return nil }
	if r := call(NewDown(cfg), "readNow", ``); r.Status != 404 {
		t.Errorf("without an adapter: %d %s", r.Status, r.Body)
	}
}

func TestFieldsOfTwoIdentitiesAreToldApartByPoint(t *testing.T) {
	cfg := DownConfig{
		Points:  []gateway.Point{field("a", "flow"), field("b", "flow"), field("b", "oil")},
		Methods: []gateway.Method{{Identity: "a", Name: "all", Read: []gateway.PointID{"a/flow", "b/flow", "b/oil"}}},
		Device: func(gateway.PointID) Device {
			return reads(sample("a/flow", float(1), 0), sample("b/flow", float(2), 0), sample("b/oil", float(3), 0))
		},
	}
	r := NewDown(cfg).Handle(context.Background(), gateway.Command{Identity: "a", Name: "all"})
	if want := `{"values":{"a/flow":1,"b/flow":2,"oil":3},"t":"2026-03-04T12:00:00.000Z"}`; string(r.Body) != want {
		t.Errorf("%d %s", r.Status, r.Body)
	}
}

func TestABodyIsNeverLongerThanTheHubTakes(t *testing.T) {
	cfg := DownConfig{Methods: []gateway.Method{{Identity: "a", Name: "all"}}}
	var samples []gateway.Sample
	for i := range 9000 {
		p := field("a", fmt.Sprintf("point_%04d", i))
		cfg.Points = append(cfg.Points, p)
		cfg.Methods[0].Read = append(cfg.Methods[0].Read, p.ID)
		samples = append(samples, sample(p.ID, float(1.5), 0))
	}
	device := &plc{read: func(context.Context, []gateway.PointID) ([]gateway.Sample, error) { return samples, nil }}
	cfg.Device = func(gateway.PointID) Device { return device }
	r := NewDown(cfg).Handle(context.Background(), gateway.Command{Identity: "a", Name: "all"})
	if r.Status != 500 || !strings.Contains(string(r.Body), "let the method read fewer points") {
		t.Errorf("%d, %d bytes", r.Status, len(r.Body))
	}
	long := boiler(&plc{write: func(context.Context, gateway.PointID, gateway.Value) error {
		return errors.New(strings.Repeat("é\x00", 100_000))
	}})
	if r := call(NewDown(long), "setMode", `{"mode":"`+strings.Repeat("x", 100_000)+`"}`); len(r.Body) > 1000 || r.Status != 400 {
		t.Errorf("%d, %d bytes", r.Status, len(r.Body))
	}
	if r := call(NewDown(long), "lampOn", ``); len(r.Body) > 10*maxErrorText || !json.Valid(r.Body) {
		t.Errorf("%d, %d bytes", r.Status, len(r.Body))
	}
}

// Whatever a caller sends and a device answers: the reply is JSON with a documented status, and what
// was written lies within the limits.
func FuzzEveryPayloadGetsATrueAnswer(f *testing.F) {
	for _, s := range []string{``, `null`, `{}`, `{"value":65}`, `{"value":1e2}`, `{"value":"x"}`, `{"mode":"off"}`, `{"on":true}`,
		`{"on":{"on":1}}`, `[`, `{"value":65,"value":1}`, "{\"value\":\"\xff\"}", `{"\u0076alue":40}`, `"`, `{"value":-0}`} {
		for method := range byte(8) {
			f.Add(method, byte(0), []byte(s))
		}
		f.Add(byte(0), byte(4), []byte(s))
	}
	methods := []string{"setSetpoint", "setMode", "setLamp", "lampOn", "tooHot", "setFlow", "readNow", "no\xffsuch"}
	outcomes := []error{nil, gateway.ErrRange, &gateway.Refusal{Code: "\xff"}, gateway.ErrNoAnswer, errors.New("\xff\""), context.Canceled}
	statuses := []int{200, 400, 403, 404, 500, 504}
	f.Fuzz(func(t *testing.T, method, outcome byte, payload []byte) {
		result := outcomes[int(outcome)%len(outcomes)]
		var wrote []gateway.Value
		device := &plc{
			write: func(_ context.Context, _ gateway.PointID, v gateway.Value) error {
				wrote = append(wrote, v)
				return result
			},
			read: func(_ context.Context, ids []gateway.PointID) ([]gateway.Sample, error) {
				return []gateway.Sample{{Point: ids[0], Value: gateway.FloatValue(1), Time: noon, Err: result}}, nil
			},
		}
		name := methods[int(method)%len(methods)]
		r := call(NewDown(boiler(device)), name, string(payload))
		if !json.Valid(r.Body) || !slices.Contains(statuses, r.Status) {
			t.Fatalf("%s %q: %d %q", name, payload, r.Status, r.Body)
		}
		for _, v := range wrote {
			n, number := v.Number()
			if name == "setSetpoint" && (!number || n < 30 || n > 85) {
				t.Errorf("%s %q wrote %v", name, payload, v)
			}
		}
		if name != "readNow" && (r.Status == 200) != (len(wrote) == 1 && result == nil) {
			t.Errorf("%s %q: status %d, wrote %v, device said %v", name, payload, r.Status, wrote, result)
		}
	})
}
