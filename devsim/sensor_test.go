package devsim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	gateway "iothub-gateway"
	"iothub-gateway/adapters/coap"
	"iothub-gateway/internal/testkit"
	"iothub-gateway/mapping"
)

func TestASensorReportsFourTimesWithinTheExpectedSilence(t *testing.T) {
	for expect, want := range map[time.Duration]time.Duration{
		0:                      5 * time.Second,
		100 * time.Millisecond: time.Second,
		4 * time.Second:        time.Second,
		10 * time.Second:       2500 * time.Millisecond,
		2 * time.Minute:        30 * time.Second,
		24 * time.Hour:         30 * time.Second,
	} {
		if got := periodOf(expect); got != want {
			t.Errorf("expected every %v: %v, want %v", expect, got, want)
		}
	}
	s := still(fieldPlant())
	if env, tank := s.sensor("env-17"), s.sensor("tank"); env.period != 30*time.Second || tank.period != time.Second {
		t.Errorf("periods %v and %v", env.period, tank.period)
	}
}

func TestFirstReportsAreSpreadOverTheFirstSecond(t *testing.T) {
	l := mapping.Listener{Config: coap.Config{Name: "l", Plain: true}}
	for i := range 200 {
		l.Devices = append(l.Devices, coap.Device{Name: fmt.Sprintf("d%d", i), Points: []coap.Point{{ID: "d/p"}}})
	}
	tenths := make(map[int]int)
	for _, o := range still(&mapping.Plant{Listeners: []mapping.Listener{l}}).sensors {
		if o.first < 0 || o.first >= time.Second {
			t.Fatalf("first report after %v", o.first)
		}
		tenths[int(10*o.first/time.Second)]++
	}
	for i := range 10 {
		if tenths[i] < 5 || tenths[i] > 40 {
			t.Errorf("%d of 200 report first in tenth %d of the second", tenths[i], i)
		}
	}
}

func TestTheFirstReportsComeWithinASecondAndTheNextAfterThePeriod(t *testing.T) {
	t.Parallel()
	vlan := listenPlain(t, "127.0.0.1:0")
	plant := only(fieldPlant(), "tank") // its period is 1 s
	began := time.Now()
	s := sensorsAt(plant, vlan.addr)
	testkit.Background(t, s.Run)
	vlan.wait(t, 1)
	first := time.Since(began)
	vlan.wait(t, 2)
	if second := time.Since(began); first > 1300*time.Millisecond || second-first < 900*time.Millisecond || second-first > 1500*time.Millisecond {
		t.Errorf("reports after %v and %v", first, second)
	}
}

func TestValueIsWhatTheLastReportSaid(t *testing.T) {
	vlan := listenPlain(t, "127.0.0.1:0")
	s := still(only(fieldPlant(), "probe"))
	s.cfg.Addr = func(string) string { return vlan.addr }
	now := noon
	s.now = func() time.Time { return time.Unix(int64(now), 0) } // it moves between reports only
	s.Mute("probe", true)
	testkit.Background(t, s.Run)
	now += 20 // the first report comes later than it was made
	seen := make(map[gateway.Value]bool)
	for i := range 4 {
		before := sensedValue(t, s, "probe/lux")
		reported(t, s, "probe")
		after := sensedValue(t, s, "probe/lux")
		if said := string(vlan.wait(t, i+1)[i].body); said != after.String() {
			t.Errorf("report %d says %s, Value %s", i, said, after)
		}
		if i == 0 && before != after {
			t.Errorf("the first report says %s, Value said %s", after, before)
		}
		seen[after] = true
		now += 20
	}
	if len(seen) < 3 {
		t.Errorf("in a minute it showed %v", seen)
	}
	last := sensedValue(t, s, "probe/lux")
	hold(t, s, "probe/lux", gateway.IntValue(4321))
	if got := sensedValue(t, s, "probe/lux"); got != last {
		t.Errorf("before the report: %s, want %s", got, last)
	}
	for range 2 {
		reported(t, s, "probe")
		if got := sensedValue(t, s, "probe/lux"); got != gateway.IntValue(4321) {
			t.Errorf("held: %s", got)
		}
	}
	if posts := vlan.wait(t, 6); string(posts[4].body) != "4321" || string(posts[5].body) != "4321" {
		t.Errorf("sent %s and %s", posts[4].body, posts[5].body)
	}
}

func TestAMutedSensorReportsOnlyWhenAsked(t *testing.T) {
	vlan := listenPlain(t, "127.0.0.1:0")
	s := hasty(sensorsAt(fieldPlant(), vlan.addr))
	s.Mute("env-17", true)
	s.Mute("tank", true)
	testkit.Background(t, s.Run)
	testkit.Eventually(t, "the others report", func() bool { return s.Acked()["node"] > 2 && s.Acked()["probe"] > 2 })
	if acked := s.Acked(); acked["tank"] != 0 || len(acked) != 4 {
		t.Errorf("acknowledged: %v", acked)
	}
	if code := reported(t, s, "tank"); code != "2.04" || s.Acked()["tank"] != 1 {
		t.Errorf("asked: %s, %d acknowledged", code, s.Acked()["tank"])
	}
	s.Mute("tank", false)
	testkit.Eventually(t, "it reports again", func() bool { return s.Acked()["tank"] > 2 })
	s.Mute("tank", true)
	reported(t, s, "tank") // what was under way is done
	n := s.Acked()["tank"]
	probe := s.Acked()["probe"]
	testkit.Eventually(t, "the others report", func() bool { return s.Acked()["probe"] > probe+2 })
	if acked := s.Acked()["tank"]; acked != n {
		t.Errorf("muted, it went from %d to %d", n, acked)
	}
}

func TestADialThatDoesNotExistCannotBeTurned(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
	}()
	still(fieldPlant()).Mute("env-18", true)
}

func TestAReportNeedsRunAndAKnownDevice(t *testing.T) {
	s := still(only(fieldPlant(), "probe"))
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	if _, err := s.Report(ctx, "env-18"); !errors.Is(err, errNoSensor) {
		t.Errorf("unknown device: %v", err)
	}
	if _, err := s.Report(ctx, "probe"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("before Run: %v", err)
	}
	testkit.Background(t, s.Run)()
	if _, err := s.Report(context.Background(), "probe"); err == nil || !strings.Contains(err.Error(), "Run has ended") {
		t.Errorf("after Run: %v", err)
	}
	if err := s.Run(context.Background()); err == nil {
		t.Error("a second Run returned nil")
	}
}

func TestAReportIsNotWaitedForLongerThanTheCallerWants(t *testing.T) {
	s := sensorsAt(only(fieldPlant(), "probe"), silentPort(t))
	s.Mute("probe", true)
	testkit.Background(t, s.Run)
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if _, err := s.Report(ctx, "probe"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v", err)
	}
}

func TestAPlantWithoutListenersHasNoSensors(t *testing.T) {
	s := NewSensors(SensorConfig{Plant: boilerPlant(), Log: zerolog.Nop()})
	testkit.Background(t, s.Run)()
	if acked := s.Acked(); len(acked) != 0 {
		t.Errorf("acknowledged: %v", acked)
	}
	if _, err := s.Value("boiler/flow_temp"); !errors.Is(err, gateway.ErrUnknownPoint) {
		t.Errorf("a polled point: %v", err)
	}
}

// callSensors calls the sensors' Handler.
func callSensors(s *Sensors, method, path, body string) (int, string) {
	w := httptest.NewRecorder()
	s.Handler().ServeHTTP(w, httptest.NewRequest(method, path, strings.NewReader(body)))
	return w.Code, w.Body.String()
}

func TestTheSensorsAreListedWithWhatTheyReported(t *testing.T) {
	s := still(fieldPlant())
	hold(t, s, "env-17/humidity", gateway.FloatValue(41.5))
	s.Mute("tank", true)
	status, body := callSensors(s, "GET", "/sensors", "")
	var got []SensorState
	var raw []map[string]any
	if err := errors.Join(json.Unmarshal([]byte(strings.ReplaceAll(body, `"value"`, `"-"`)), &got), json.Unmarshal([]byte(body), &raw)); err != nil || status != http.StatusOK || len(got) != 4 {
		t.Fatalf("%d %v %s", status, err, body)
	}
	env, tank := got[0], got[2]
	if env.Name != "env-17" || env.Listener != "field" || env.Format != "senml+json" || env.Period != "30s" || env.Mute || env.Acked != 0 {
		t.Errorf("env-17: %+v", env)
	}
	if tank.Name != "tank" || tank.Listener != "vlan4" || tank.Format != "json" || !tank.Mute {
		t.Errorf("tank: %+v", tank)
	}
	humidity := raw[0]["points"].([]any)[1].(map[string]any)
	if humidity["id"] != "env-17/humidity" || humidity["value"] != 41.5 || humidity["unit"] != "%RH" {
		t.Errorf("humidity: %v", humidity)
	}
	if state := raw[2]["points"].([]any)[3].(map[string]any); state["id"] != "tank/state" || state["value"] != nil {
		t.Errorf("a point without a value: %v", state)
	}
}

func TestAPostTurnsTheDialOfASensor(t *testing.T) {
	s := still(fieldPlant())
	for _, test := range []struct {
		path, body string
		status     int
		mute       bool
	}{
		{"/sensors/tank", `{"mute":true}`, http.StatusNoContent, true},
		{"/sensors/tank", `{}`, http.StatusBadRequest, true},
		{"/sensors/tank", `{"mute":1}`, http.StatusBadRequest, true},
		{"/sensors/tank", `{"silent":false}`, http.StatusBadRequest, true},
		{"/sensors/tonk", `{"mute":false}`, http.StatusNotFound, true},
		{"/sensors/tank", `{"mute":false}`, http.StatusNoContent, false},
	} {
		status, answer := callSensors(s, "POST", test.path, test.body)
		if mute := s.sensor("tank").mute.Load(); status != test.status || mute != test.mute {
			t.Errorf("%s %s: %d %s, mute %v", test.path, test.body, status, answer, mute)
		}
	}
}
