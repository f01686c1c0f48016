package upstream

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	gateway "iothub-gateway"
	"iothub-gateway/hubsim"
	"iothub-gateway/identity"
	"iothub-gateway/internal/testkit"
)

// twinRig is a pool whose identities have desired properties, each written to a point of its name.
type twinRig struct {
	*rig
	notes *testkit.Notes

	mu      sync.Mutex // guards the fields below
	written []string   // path=value
	ack     func(path string, value []byte) gateway.Ack
}

func newTwinRig(t *testing.T, rules ...gateway.Desired) *twinRig {
	t.Helper()
	r := &twinRig{rig: newRig(t), notes: &testkit.Notes{}}
	r.ack = func(_ string, value []byte) gateway.Ack {
		v, err := gateway.ParseValue(value)
		if err != nil {
			return gateway.Ack{Status: 400, Text: "no scalar"}
		}
		return gateway.Ack{Value: v, Status: 200, Text: "done"}
	}
	r.cfg.State, r.cfg.ReportEvery = r.notes, 10*time.Millisecond
	r.cfg.Desired = func(_ context.Context, _ gateway.IdentityID, path string, value []byte) gateway.Ack {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.written = append(r.written, path+"="+string(value))
		return r.ack(path, value)
	}
	r.member = func(m *Member) { m.Desired = rules }
	return r
}

func (r *twinRig) writes() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Join(r.written, " ")
}

func (r *twinRig) answer(f func(path string, value []byte) gateway.Ack) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ack = f
}

func rule(path string) gateway.Desired { return gateway.Desired{Path: path} }

// becomes waits until a reported property is as it is wanted: JSON with sorted members.
func (r *twinRig) becomes(path, want string) {
	r.t.Helper()
	r.eventually(path+" is reported as "+want, func() bool { return r.reported("d1", path) == want })
}

func TestDesiredPropertiesAreAppliedOnConnectAndThenInOrder(t *testing.T) {
	r := newTwinRig(t, rule("setpoint"), rule("heating.mode"))
	if _, err := r.hub.Register("d1", ""); err != nil {
		t.Fatal(err)
	}
	r.desire("d1", `{"heating":{"mode":"auto"},"setpoint":60,"theirs":1}`) // before the first connection
	stop := r.run("d1")
	r.becomes("setpoint", `{"ac":200,"ad":"done","av":2,"value":60}`)
	r.becomes("heating.mode", `{"ac":200,"ad":"done","av":2,"value":"auto"}`)
	for v := 61; v <= 65; v++ {
		r.desire("d1", fmt.Sprintf(`{"setpoint":%d}`, v))
	}
	r.becomes("setpoint", `{"ac":200,"ad":"done","av":7,"value":65}`)
	r.desire("d1", `{"setpoint":65}`) // the same again: acknowledged, not written
	r.becomes("setpoint", `{"ac":200,"ad":"as before","av":8,"value":65}`)
	want := "setpoint=60 heating.mode=\"auto\" setpoint=61 setpoint=62 setpoint=63 setpoint=64 setpoint=65"
	if got := r.writes(); got != want {
		t.Errorf("written %s, want %s", got, want)
	}
	stop()
	r.desire("d1", `{"heating":{"mode":"off"}}`) // missed: it is found by reading the twin
	stop = r.run("d1")                           // a restart: what was applied is not written again
	r.becomes("heating.mode", `{"ac":200,"ad":"done","av":9,"value":"off"}`)
	if got := r.writes(); got != want+` heating.mode="off"` {
		t.Errorf("after a restart: %s", got)
	}
	r.desire("d1", `{"setpoint":null}`)
	r.becomes("setpoint", `null`)
	r.desire("d1", `{"setpoint":65}`)
	r.becomes("setpoint", `{"ac":200,"ad":"done","av":11,"value":65}`)
	stop()
}

func TestAWriteThatDidNotHappenIsNeverReportedAsDone(t *testing.T) {
	r := newTwinRig(t, rule("setpoint"))
	r.answer(func(string, []byte) gateway.Ack {
		return gateway.Ack{Value: gateway.IntValue(55), Status: 400, Text: "value 900 is above the maximum 85"}
	})
	stop := r.run("d1")
	r.desire("d1", `{"setpoint":900}`)
	r.becomes("setpoint", `{"ac":400,"ad":"value 900 is above the maximum 85","av":2,"value":55}`)
	stop()
	stop = r.run("d1") // it was refused for good
	r.eventually("connected", func() bool { return r.pool.Stats()[0].Connected })
	r.desire("d1", `{"other":1}`)
	r.desire("d1", `{"setpoint":900}`) // but may be asked for again
	r.becomes("setpoint", `{"ac":400,"ad":"value 900 is above the maximum 85","av":4,"value":55}`)
	if got := r.writes(); got != "setpoint=900 setpoint=900" {
		t.Errorf("written %s", got)
	}
	stop()
}

func TestADesiredPropertyWaitsForItsDeviceWhileItIsDesired(t *testing.T) {
	r := newTwinRig(t, rule("setpoint"))
	r.answer(func(string, []byte) gateway.Ack { return gateway.Ack{Status: 202, Text: "no answer"} })
	r.run("d1")
	r.desire("d1", `{"setpoint":60}`)
	r.becomes("setpoint", `{"ac":202,"ad":"no answer","av":2}`)
	r.desire("d1", `{"setpoint":61}`)
	r.eventually("it was tried again", func() bool { return strings.Count(r.writes(), "=61") > 2 })
	r.answer(func(_ string, value []byte) gateway.Ack {
		return gateway.Ack{Value: gateway.IntValue(61), Status: 200, Text: "done"}
	})
	r.becomes("setpoint", `{"ac":200,"ad":"done","av":3,"value":61}`)
	if writes := strings.Fields(r.writes()); strings.Contains(strings.Join(writes[len(writes)-3:], " "), "=60") {
		t.Errorf("what is not desired any more is written: %v", writes)
	}
}

func TestAPropertyThatIsAlwaysAppliedIsWrittenAgainWhenItsDeviceIsBack(t *testing.T) {
	always := rule("ref")
	always.Always = true
	r := newTwinRig(t, rule("setpoint"), always)
	r.run("d1")
	r.desire("d1", `{"setpoint":60,"ref":5}`)
	r.becomes("ref", `{"ac":200,"ad":"done","av":2,"value":5}`)
	r.pool.Refresh("d1")
	r.eventually("it is written again", func() bool { return r.writes() == "setpoint=60 ref=5 ref=5" })
}

func TestADesiredValueThatWentWithWhatHeldItIsNotWrittenAgain(t *testing.T) {
	always := rule("heating.setpoint")
	always.Always = true
	for _, change := range []string{`{"heating":null}`, `{"heating":"off"}`} {
		t.Run(change, func(t *testing.T) {
			r := newTwinRig(t, always, rule("mode"))
			r.run("d1")
			r.desire("d1", `{"heating":{"setpoint":60}}`)
			r.becomes("heating.setpoint", `{"ac":200,"ad":"done","av":2,"value":60}`)
			r.desire("d1", change)
			r.pool.Refresh("d1")
			r.desire("d1", `{"mode":1}`)
			r.becomes("mode", `{"ac":200,"ad":"done","av":4,"value":1}`)
			r.becomes("heating.setpoint", `null`)
			if got := r.writes(); got != "heating.setpoint=60 mode=1" {
				t.Errorf("written %s", got)
			}
		})
	}
}

func TestAValueThatAReplacementLeftOutIsNotWrittenWhenTheDeviceIsBack(t *testing.T) {
	always := rule("ref")
	always.Always = true
	r := newTwinRig(t, always)
	r.run("d1")
	r.desire("d1", `{"ref":5}`)
	r.becomes("ref", `{"ac":200,"ad":"done","av":2,"value":5}`)
	r.rest("PUT", "/twins/d1", `{"properties":{"desired":{"other":1}}}`) // its notice does not name what has gone
	r.pool.Refresh("d1")
	r.becomes("ref", `null`)
	if got := r.writes(); got != "ref=5" {
		t.Errorf("written %s", got)
	}
}

func TestADesiredPropertyThatIsForAnotherPointNowIsWrittenThere(t *testing.T) {
	boiler := gateway.Desired{Path: "setpoint", Write: "boiler/setpoint"}
	r := newTwinRig(t, boiler)
	stop := r.run("d1")
	r.desire("d1", `{"setpoint":60}`)
	r.becomes("setpoint", `{"ac":200,"ad":"done","av":2,"value":60}`)
	stop()
	boiler.Write = "boiler-2/setpoint" // the mapping was changed
	r.member = func(m *Member) { m.Desired = []gateway.Desired{boiler} }
	stop = r.run("d1")
	r.eventually("it is written to the other one", func() bool { return r.writes() == "setpoint=60 setpoint=60" })
	stop()
	boiler.Place = "10.0.0.7:502 unit 1 holding 41"
	r.run("d1")
	r.eventually("it is written to another register", func() bool { return r.writes() == "setpoint=60 setpoint=60 setpoint=60" })
}

func TestAMissedVersionCostsReadingTheWholeTwin(t *testing.T) {
	r := newTwinRig(t, rule("a"), rule("b"))
	release := make(chan struct{})
	r.answer(func(path string, _ []byte) gateway.Ack {
		if path == "a" {
			<-release
		}
		return gateway.Ack{Value: gateway.IntValue(1), Status: 200, Text: "done"}
	})
	r.run("d1")
	r.eventually("connected", func() bool { return r.pool.Stats()[0].Connected })
	r.desire("d1", `{"a":1}`)
	for i := range mostPatches + 20 { // more than wait for their turn
		r.desire("d1", fmt.Sprintf(`{"b":%d}`, i))
	}
	close(release)
	r.eventually("the newest value is applied", func() bool {
		return strings.HasSuffix(r.writes(), fmt.Sprintf("b=%d", mostPatches+19))
	})
}

func TestAThrottledTwinIsAskedAgainLater(t *testing.T) {
	r := newTwinRig(t, rule("setpoint"))
	if _, err := r.hub.Register("d1", ""); err != nil {
		t.Fatal(err)
	}
	r.desire("d1", `{"setpoint":60}`)
	r.hub.FailTwins("d1", 429, 3)
	r.run("d1")
	r.becomes("setpoint", `{"ac":200,"ad":"done","av":2,"value":60}`)
	r.hub.FailTwins("d1", 500, 3)
	if err := r.pool.Report("d1", "gateway.devices.boiler", []byte(`{"state":"up"}`)); err != nil {
		t.Fatal(err)
	}
	r.becomes("gateway.devices.boiler", `{"state":"up"}`)
}

func TestReportedPropertiesAreMergedAndWaitForAConnection(t *testing.T) {
	r := newTwinRig(t)
	r.cfg.ReportEvery = 0 // as built in
	key, err := r.hub.Register("d1", "")
	if err != nil || key == "" {
		t.Fatal(err)
	}
	report := func(value string) {
		if err := r.pool.Report("d1", "gateway.devices.boiler", []byte(value)); err != nil {
			t.Fatal(err)
		}
	}
	stop := r.run("d1")
	r.eventually("connected", func() bool { return r.pool.Stats()[0].Connected })
	for i := range 500 {
		report(fmt.Sprintf(`{"state":"down","n":%d}`, i))
	}
	r.becomes("gateway.devices.boiler", `{"n":499,"state":"down"}`)
	twin := r.rest("GET", "/twins/d1", "")
	version, _ := find(twin, "properties.reported.$version")
	if version.(float64) > 4 {
		t.Errorf("500 changes took %v patches", version)
	}
	stop()
	report(`{"state":"up"}`)
	r.run("d1")
	report(`{"state":"up"}`)
	r.becomes("gateway.devices.boiler", `{"state":"up"}`)
}

func TestADeviceThatWasMadeAnewGetsAllItsReportedPropertiesAgain(t *testing.T) {
	r := newTwinRig(t)
	key, err := r.hub.Register("d1", "")
	if err != nil {
		t.Fatal(err)
	}
	report := func(name, value string) {
		if err := r.pool.Report("d1", name, []byte(value)); err != nil {
			t.Fatal(err)
		}
	}
	r.run("d1")
	for i := range 4 {
		report("a", fmt.Sprint(i))
		r.becomes("a", fmt.Sprint(i))
	}
	if err := r.hub.Unregister("d1", ""); err != nil {
		t.Fatal(err)
	}
	if err := r.hub.RegisterWithKey("d1", "", key); err != nil {
		t.Fatal(err)
	}
	report("b", "1")
	r.becomes("b", "1")
	r.becomes("a", "3")
}

func TestWillAndModelOfTheMappingGoWithTheConnection(t *testing.T) {
	r := newRig(t)
	r.member = func(m *Member) {
		m.Will, m.ModelID = []byte(`{"state":"lost"}`), "dtmi:com:example:boiler;1"
		m.Properties = []gateway.Property{{Name: "site", Value: "plant 7"}}
	}
	r.run("d1", "d1/m")
	r.eventually("connected", func() bool { return r.pool.Stats()[0].Connected && r.pool.Stats()[1].Connected })
	r.hub.Kick("d1")
	r.hub.Kick("d1/m")
	var wills []hubsim.Message
	r.eventually("both wills were sent", func() bool { wills = r.hub.Messages(0, 0); return len(wills) >= 2 })
	for _, m := range wills[:2] {
		if string(m.Body) != `{"state":"lost"}` || m.Properties["iothub-MessageType"] != "Will" || m.Properties["site"] != "plant 7" || m.System["content-type"] != "application/json" {
			t.Errorf("%+v", m)
		}
	}
}

func TestAModuleHasATwinOfItsOwn(t *testing.T) {
	r := newTwinRig(t, rule("setpoint"))
	r.run("d1", "d1/m")
	r.eventually("connected", func() bool { return r.pool.Stats()[0].Connected && r.pool.Stats()[1].Connected })
	r.desire("d1/modules/m", `{"setpoint":61}`)
	r.eventually("the module's twin says so", func() bool {
		return r.reported("d1/modules/m", "setpoint") == `{"ac":200,"ad":"done","av":2,"value":61}`
	})
	if got := r.reported("d1", "setpoint"); got != "null" {
		t.Errorf("the device's twin says %s", got)
	}
}

func TestABasicHubGetsTelemetryAlone(t *testing.T) {
	r := newRigAt(t, hubsim.Config{Limits: hubsim.Limits{Basic: true}})
	r.run("d1")
	if err := r.pool.Report("d1", "gateway.devices.boiler", []byte(`{"state":"up"}`)); err != nil {
		t.Fatal(err)
	}
	r.put("d1", 20)
	r.eventually("the queue is empty", r.empty)
	if got := r.pool.Stats()[0]; !got.Connected || got.Connects != 1 {
		t.Errorf("%+v", got)
	}
}

func TestTheModelStandsInTheUserName(t *testing.T) {
	for model, want := range map[string]string{
		"": "h/d/?api-version=2021-04-12", "dtmi:com:example:boiler;1": "h/d/?api-version=2021-04-12&model-id=dtmi%3Acom%3Aexample%3Aboiler%3B1",
	} {
		l := &link{member: Member{ModelID: model}}
		if got := l.username(identity.Login{Username: "h/d/?api-version=2021-04-12"}); got != want {
			t.Errorf("%q: %s", model, got)
		}
	}
}

func TestAStopSendsNoWill(t *testing.T) {
	r := newRig(t)
	r.member = func(m *Member) { m.Will = []byte(`{"state":"lost"}`) }
	r.life = 2 * time.Second // renewals are no loss either
	stop := r.run("d1")
	r.eventually("the token was renewed", func() bool { return r.pool.Stats()[0].Connects >= 2 })
	stop()
	if got := r.hub.Messages(0, 0); len(got) != 0 {
		t.Errorf("%+v", got)
	}
}
