package upstream

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"iothub-gateway/internal/testkit"
)

// change sets what path says and returns the patch, which the hub takes.
func change(t *testing.T, r *reported, path, value string) string {
	t.Helper()
	if err := r.set(path, []byte(value)); err != nil {
		t.Fatal(err)
	}
	patch, said := r.next(allPaths)
	r.taken(said)
	return string(patch)
}

func TestReportedPropertiesAreSentAsDifferences(t *testing.T) {
	r := &reported{ready: true}
	for _, c := range []struct{ path, value, patch string }{
		{"gateway.devices.boiler", `{"state":"up","error":null}`, `{"gateway":{"devices":{"boiler":{"state":"up"}}}}`},
		{"gateway.devices.boiler", `{"state":"up"}`, ``},
		{"gateway.devices.boiler", `{"state":"down","error":"no answer"}`, `{"gateway":{"devices":{"boiler":{"error":"no answer","state":"down"}}}}`},
		{"gateway.devices.boiler", `{"state":"up"}`, `{"gateway":{"devices":{"boiler":{"error":null,"state":"up"}}}}`},
		{"setpoint", `{"value":65,"ac":200,"av":3,"ad":"done"}`, `{"setpoint":{"ac":200,"ad":"done","av":3,"value":65}}`},
		{"setpoint", `{"value":65,"ac":200,"av":4,"ad":"done"}`, `{"setpoint":{"av":4}}`},
		{"setpoint", `{"value":null,"ac":504,"av":5,"ad":"no answer"}`, `{"setpoint":{"ac":504,"ad":"no answer","av":5,"value":null}}`},
		{"setpoint", `null`, `{"setpoint":null}`},
		{"setpoint", `null`, `{"setpoint":null}`}, // whether the hub has it is not known any more
	} {
		if got := change(t, r, c.path, c.value); got != c.patch {
			t.Errorf("%s %s: %s, want %s", c.path, c.value, got, c.patch)
		}
	}
}

func TestWhatTheHubSaysIsNotSentAgainAndWhatHasLeftIsRemoved(t *testing.T) {
	r := &reported{ready: true}
	for path, value := range map[string]string{"gateway.devices.a": `{"state":"up"}`, "gateway.devices.b": `{"state":"up"}`, "x.y": `1`} {
		if err := r.set(path, []byte(value)); err != nil {
			t.Fatal(err)
		}
	}
	var section map[string]any
	if err := json.Unmarshal([]byte(`{"gateway":{"devices":{"a":{"state":"up"},"b":{"state":"down"},"old":{"state":"up"}},"other":1},"x":5,"theirs":true,"$version":7}`), &section); err != nil {
		t.Fatal(err)
	}
	r.learn(section, "gateway.devices")
	patch, said := r.next(allPaths)
	if got, want := string(patch), `{"gateway":{"devices":{"b":{"state":"up"},"old":null}},"x":{"y":1}}`; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	r.taken(said)
	if patch, _ := r.next(allPaths); patch != nil {
		t.Errorf("again: %s", patch)
	}
}

func TestMembersOfAFormerRunLeaveThePropertyThatIsReportedAgain(t *testing.T) {
	r := &reported{}
	var section map[string]any
	if err := json.Unmarshal([]byte(`{"gateway":{"lastCommand":{"status":200,"written":90}},"theirs":{"a":1},"$version":7}`), &section); err != nil {
		t.Fatal(err)
	}
	if err := r.set("theirs.b", []byte(`1`)); err != nil {
		t.Fatal(err)
	}
	r.learn(section, "gateway.devices")
	for _, c := range []struct{ path, value, patch string }{
		{"gateway.lastCommand", `{"status":504,"error":"no answer"}`, `{"gateway":{"lastCommand":{"error":"no answer","status":504,"written":null}},"theirs":{"b":1}}`},
		{"gateway.lastCommand", `null`, `{"gateway":{"lastCommand":null}}`},
		{"gateway.lastCommand", `{"status":200,"written":90}`, `{"gateway":{"lastCommand":{"status":200,"written":90}}}`},
		{"theirs.a", `1`, ``}, // the hub has it
		{"gateway.lastMessage", `{"status":200}`, `{"gateway":{"lastMessage":{"status":200}}}`},
	} {
		if got := change(t, r, c.path, c.value); got != c.patch {
			t.Errorf("%s %s: %s, want %s", c.path, c.value, got, c.patch)
		}
	}
	if r.rest != nil {
		t.Errorf("%s is kept, and everything is reported", r.rest)
	}
}

func TestReportedPropertiesStayWithinTheLimitsOfTheHub(t *testing.T) {
	r := &reported{ready: true}
	if err := r.set("x", fmt.Appendf(nil, "%q", strings.Repeat("x", 5000))); err == nil {
		t.Error("a value of 5000 bytes was taken")
	}
	if err := r.set("x", []byte(`{`)); err == nil {
		t.Error("half an object was taken")
	}
	taken := 0
	for i := range 100 {
		if r.set(fmt.Sprintf("p%d", i), fmt.Appendf(nil, "%q", strings.Repeat("x", 1000))) == nil {
			taken++
		}
	}
	if taken < 20 || taken > 24 {
		t.Errorf("%d values of 1000 bytes were taken", taken)
	}
	got := map[string]any{}
	for patches := 0; ; patches++ {
		patch, said := r.next(allPaths)
		if patch == nil {
			if patches < 3 {
				t.Errorf("%d patches", patches)
			}
			break
		}
		if len(patch) > 8<<10 || json.Unmarshal(patch, &got) != nil {
			t.Fatalf("a patch of %d bytes", len(patch))
		}
		r.taken(said)
	}
	if len(got) != taken {
		t.Errorf("%d of %d were sent", len(got), taken)
	}
	for i := range 100 { // replacing and removing makes room again
		_ = r.set(fmt.Sprintf("p%d", i), []byte("null"))
	}
	for patch, said := r.next(allPaths); patch != nil; patch, said = r.next(allPaths) {
		r.taken(said)
	}
	if r.size != 0 || len(r.wanted) != 0 {
		t.Errorf("%d bytes and %d values are left", r.size, len(r.wanted))
	}
}

func TestAnAnswerAboutTheTwinIsRecognisedByItsTopic(t *testing.T) {
	type answer struct {
		Status  int
		Version int64
		Rid     string
		OK      bool
	}
	for topic, want := range map[string]answer{
		"$iothub/twin/res/200/?$rid=1":             {200, 0, "1", true},
		"$iothub/twin/res/204/?$rid=1&$version=6":  {204, 6, "1", true}, // seed l.306
		"$iothub/twin/res/429/?$version=6&$rid=ab": {429, 6, "ab", true},
		"$iothub/twin/res/x/?$rid=1":               {},
		"$iothub/twin/res/200/":                    {},
		"$iothub/twin/res/200/?$version=6":         {200, 6, "", false},
		"$iothub/methods/POST/a/?$rid=1":           {},
	} {
		a, rid, ok := parseTwinAnswer(topic)
		got := answer{a.status, a.version, rid, ok}
		if got != want {
			t.Errorf("%s: %+v", topic, got)
		}
	}
}

func TestASectionWithoutVersionIsNoDesiredSection(t *testing.T) {
	for text, good := range map[string]bool{
		`{"a":1,"$version":7}`: true, `{"a":1}`: false, `[]`: false, `{"$version":"7"}`: false, `null`: false, ``: false,
	} {
		doc, err := parseDesired([]byte(text))
		if (err == nil) != good || good && doc.version != 7 {
			t.Errorf("%s: %+v, %v", text, doc, err)
		}
	}
	desired, section, err := parseTwin([]byte(`{"desired":{"telemetrySendFrequency":"5m","$version":12},"reported":{"batteryLevel":55,"$version":123}}`)) // seed l.236
	if diff := cmp.Diff(map[string]any{"batteryLevel": 55.0, "$version": 123.0}, section); err != nil || desired.version != 12 || diff != "" {
		t.Errorf("%+v, %v\n%s", desired, err, diff)
	}
}

func TestOnePropertyThatTheHubRefusesKeepsNoOtherFromBeingReported(t *testing.T) {
	r := newTwinRig(t)
	r.pool = NewPool(r.cfg, []Member{r.join("d1")}, r.handle)
	for i := range 20 {
		value := fmt.Sprint(i)
		if i == 7 {
			value = "18446744073709551615" // more than a twin holds (TWIN-30)
		}
		if err := r.pool.Report("d1", fmt.Sprintf("p%02d", i), []byte(value)); err != nil {
			t.Fatal(err)
		}
	}
	testkit.Background(t, r.pool.Run)
	for i := range 20 {
		if i != 7 {
			r.becomes(fmt.Sprintf("p%02d", i), fmt.Sprint(i))
		}
	}
	r.becomes("p07", "null")
}
