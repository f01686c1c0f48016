package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os"
	"strings"
	"testing"

	"iothub-gateway/hubsim"
)

// simulatedHub runs a simulator that the hub commands of this test find.
func simulatedHub(t *testing.T) *hubsim.Hub {
	t.Helper()
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	t.Setenv(connectionStringVariable, "")
	hub, err := hubsim.New(hubsim.Config{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- hub.Run(ctx) }()
	remove, err := leaveNote(noteOf(hub, nil))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		remove()
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return hub
}

// said is what a command said.
type said struct {
	out, err string
	code     int
}

// hubLine runs gateway hub with these words, and this on its standard input.
func hubLine(t *testing.T, stdin string, words ...string) said {
	t.Helper()
	var out, errs bytes.Buffer
	code := execute(t.Context(), append([]string{"hub"}, words...), streams{out: &out, err: &errs, in: strings.NewReader(stdin)})
	return said{out.String(), errs.String(), code}
}

// wants fails unless the command ended so and said this.
func (s said) wants(t *testing.T, code int, parts ...string) said {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(s.out+s.err, part) {
			t.Errorf("no %q in:\n%s%s", part, s.out, s.err)
		}
	}
	if s.code != code {
		t.Errorf("exit code %d, want %d\n%s%s", s.code, code, s.out, s.err)
	}
	return s
}

func TestTwinsAreReadAndChangedByPart(t *testing.T) {
	hub := simulatedHub(t)
	if _, err := hub.Register("dev1", "camera"); err != nil {
		t.Fatal(err)
	}
	hubLine(t, "", "twin", "patch", "dev1", `{"interval": 10, "old": 1}`).wants(t, 0, `"interval": 10`)
	hubLine(t, `{"old": null}`, "twin", "patch", "dev1").wants(t, 0)
	hubLine(t, `{"hall": 3}`, "twin", "patch", "dev1", "-", "--tags").wants(t, 0)
	hubLine(t, "", "twin", "patch", "dev1/camera", `{"zoom": 2}`).wants(t, 0, `"zoom": 2`)
	hubLine(t, "", "twin", "patch", "dev1/camera", "{}", "--json").wants(t, 0, `"moduleId": "camera"`)
	for _, words := range [][]string{{"twin", "get", "dev1"}, {"twin", "patch", "dev1", "{}"}} {
		if got := hubLine(t, "", words...).wants(t, 0, "DESIRED, version", "REPORTED, version 1\n{}", "TAGS\n"); strings.Contains(got.out, "$") || strings.Contains(got.out, "etag") {
			t.Errorf("a person is shown\n%s", got.out)
		}
	}
	got := hubLine(t, "", "twin", "get", "dev1", "--json").wants(t, 0)
	var twin struct {
		ETag       string
		Tags       map[string]int
		Properties struct{ Desired map[string]json.RawMessage }
	}
	if err := json.Unmarshal([]byte(got.out), &twin); err != nil {
		t.Fatal(err)
	}
	desired := twin.Properties.Desired
	if twin.Tags["hall"] != 3 || string(desired["interval"]) != "10" || desired["old"] != nil {
		t.Errorf("the twin is\n%s", got.out)
	}
	whole := `{"tags": {"line": 7}, "properties": {"desired": {"mode": "auto"}}}`
	hubLine(t, whole, "twin", "patch", "dev1").wants(t, 2, "--whole")
	hubLine(t, whole, "twin", "patch", "dev1", "--whole", "--if-match", "stale").wants(t, 1, "412")
	hubLine(t, whole, "twin", "patch", "dev1", "--whole", "--replace", "--if-match", twin.ETag).wants(t, 0)
	hubLine(t, "", "twin", "get", "dev1", "--tags").wants(t, 0, `"line": 7`)
	if got := hubLine(t, "", "twin", "get", "dev1", "--desired").wants(t, 0, `"mode": "auto"`); strings.Contains(got.out, "interval") {
		t.Errorf("a replaced twin still has\n%s", got.out)
	}
	hubLine(t, "", "twin", "get", "dev1", "--reported", "--json").wants(t, 0, `"$version": 1`)
	hubLine(t, "", "twin", "get", "dev9").wants(t, 4, "no device dev9")
	hubLine(t, "", "twin", "patch", "dev1", "{'a': 1}").wants(t, 2, "is not JSON")
	hubLine(t, "", "twin", "patch", "dev1", "7").wants(t, 2, "a JSON object")
}

func TestMessagesAreSentWithEverythingThatTheyHave(t *testing.T) {
	hub := simulatedHub(t)
	if _, err := hub.Register("dev1", ""); err != nil {
		t.Fatal(err)
	}
	hubLine(t, "", "send", "dev1", "open", "--property", "line=3", "--property", "empty=", "--ack", "full", "--expires", "10m",
		"--message-id", "m-1", "--content-type", "text/plain").wants(t, 0, "m-1")
	hubLine(t, "a\x00b", "send", "dev1").wants(t, 0)
	if n, err := hub.PurgeCommands("dev1"); err != nil || n != 2 {
		t.Fatalf("%d messages wait, %v", n, err)
	}
	dead := hub.DeadLetters("dev1")
	first, second := dead[0].Message, dead[1].Message
	if string(first.Body) != "open" || *first.Properties["line"] != "3" || *first.Properties["empty"] != "" ||
		first.Ack != "full" || first.ContentType != "text/plain" || first.Expires.IsZero() {
		t.Errorf("the first is %+v", first)
	}
	if string(second.Body) != "a\x00b" || second.MessageID == "" {
		t.Errorf("the second is %+v", second)
	}
	hubLine(t, "", "send", "dev9", "x").wants(t, 4, "no device dev9")
	hubLine(t, "", "send", "dev1", "x", "--ack", "loud").wants(t, 1, "loud")
	hubLine(t, "", "send", "dev1/camera", "x").wants(t, 2, "module")
	hubLine(t, "", "send", "dev1", "x", "--property", "line").wants(t, 2, "NAME=VALUE")
}

func TestFaultsAreArmedListedAndCleared(t *testing.T) {
	hub := simulatedHub(t)
	hubLine(t, "", "faults", "list").wants(t, 0, "no fault is armed")
	hubLine(t, "", "faults", "arm", "dev1", "--drop-acks", "3", "--refuse-connects", "2", "--code", "5", "--delay-acks", "2s").wants(t, 0)
	hubLine(t, "", "faults", "arm", "--everybody", "--throttle", "2.5", "--kick").wants(t, 0, "no connection to cut")
	hubLine(t, "", "faults", "list").wants(t, 0, "everybody", "2.5", "dev1", "delayAcks", "2s", `{"code":5,"count":2}`)
	if armed := hub.ArmedFaults(); len(armed) != 2 || *armed[1].DropAcks != 3 {
		t.Errorf("armed is %+v", armed)
	}
	hubLine(t, "", "faults", "arm", "dev1", "--drop-acks", "0").wants(t, 0)
	hubLine(t, "", "faults", "clear", "dev1").wants(t, 0)
	if got := hubLine(t, "", "faults", "list", "--json").wants(t, 0, `"throttle": 2.5`); strings.Contains(got.out, "dev1") {
		t.Errorf("cleared, and still there:\n%s", got.out)
	}
	hubLine(t, "", "faults", "clear").wants(t, 0)
	hubLine(t, "", "faults", "list", "--json").wants(t, 0, "[]")
	hubLine(t, "", "faults", "arm", "dev1").wants(t, 2, "which fault?")
	hubLine(t, "", "faults", "arm", "--kick").wants(t, 2, "--everybody")
	hubLine(t, "", "faults", "arm", "dev1", "--refuse-connects", "1", "--code", "9").wants(t, 1, "refuseConnects")
}

func TestWhatARealHubDoesNotHaveIsSaidInOneSentence(t *testing.T) {
	t.Setenv(connectionStringVariable, "HostName=plant7.azure-devices.net;SharedAccessKeyName=service;SharedAccessKey=c2VjcmV0")
	for _, words := range [][]string{{"watch"}, {"watch", "--stored"}, {"send", "dev1", "x"}, {"faults", "list"}} {
		got := hubLine(t, "", words...).wants(t, 1, "does not offer", "over HTTPS; ")
		if strings.Count(got.err, "\n") != 1 || strings.Contains(got.err, "c2VjcmV0") {
			t.Errorf("%v: %s", words, got.err)
		}
	}
}

func TestThePageIsTheSimulators(t *testing.T) {
	hub := simulatedHub(t)
	hubLine(t, "", "page").wants(t, 0, hub.PageURL())
	hubLine(t, "", "page", "--json").wants(t, 0, `"page": "`+hub.PageURL()+`"`)
	hubLine(t, "", "--connection-string", "HostName=x", "page").wants(t, 1, "Azure portal")
}

func TestWithoutAHubTheRemedyIsNamed(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	if err := os.Unsetenv(connectionStringVariable); err != nil {
		t.Fatal(err)
	}
	hubLine(t, "", "devices", "list").wants(t, 1, "gateway hubsim", "--connection-string")
	hubLine(t, "", "--connection-string", "HostName=x", "devices", "list").wants(t, 1, "SharedAccessKeyName")
}

// completed is what the shell is offered for a command line, the last word of which is begun.
func completed(t *testing.T, words []string) string {
	t.Helper()
	var out bytes.Buffer
	if code := execute(t.Context(), words, streams{out: &out, err: io.Discard, in: strings.NewReader("")}); code != 0 {
		t.Errorf("%v: exit code %d", words, code)
	}
	offered, _, ok := strings.Cut(out.String(), ":4\n") // that no files are meant
	if !ok {
		t.Errorf("%v: offers files too: %s", words, out.String())
	}
	return offered
}

func TestRefusalsOfTheHubHaveExitCodesThatScriptsCanTell(t *testing.T) {
	for _, c := range []struct {
		status int
		name   string
		want   int
	}{
		{404, "DeviceNotFound", exitUnknown}, {404, "ModuleNotFound", exitUnknown}, {404, "", exitUnknown},
		{404, "DeviceNotOnline", exitFailed},   // it is known, and was not called
		{504, "GatewayTimeout", exitUncertain}, // it was called, and may have done it
		{412, "PreconditionFailed", exitFailed}, {401, "IotHubUnauthorizedAccess", exitFailed}, {429, "", exitFailed},
	} {
		e := &hubError{host: "localhost", status: c.status, name: c.name, text: "why"}
		if got := e.exitCode(); got != c.want {
			t.Errorf("%v: exit code %d, want %d", e, got, c.want)
		}
	}
}
