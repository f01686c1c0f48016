package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	gateway "iothub-gateway"
)

func TestDevicesAreAddedListedShownDisabledAndRemoved(t *testing.T) {
	hub := simulatedHub(t)
	hubLine(t, "", "devices", "list").wants(t, 0, "none;")
	added := hubLine(t, "", "devices", "add", "dev1", "dev2").wants(t, 0)
	hubLine(t, "", "devices", "add", "dev1/camera").wants(t, 0, "DeviceId=dev1;ModuleId=camera;SharedAccessKey=")
	hubLine(t, "", "devices", "add", "dev3", "--thumbprint", "8BAA7C1E6A3F40B2D9C5E4F1A0B3C6D7E8F90123").wants(t, 0, "DeviceId=dev3;x509=true")
	first := strings.Split(added.out, "\n")[0]
	hubLine(t, "", "connection-string", "dev1").wants(t, 0, first)
	key, err := hub.Register("dev1", "")
	if err != nil || !strings.HasSuffix(first, ";SharedAccessKey="+key) {
		t.Errorf("%v: printed was %q, the key is %s", err, first, key)
	}
	listed := hubLine(t, "", "devices", "list").wants(t, 0, "dev1", "dev2", "dev3", "selfSigned", "never", "disconnected")
	if lines := strings.Split(listed.out, "\n"); !strings.HasPrefix(lines[2], "dev1/camera ") {
		t.Errorf("the module does not stand below its device:\n%s", listed.out)
	}
	hubLine(t, "", "twin", "patch", "dev2", "--tags", `{"hall":3}`).wants(t, 0)
	var all []struct{ DeviceID string }
	if got := hubLine(t, "", "devices", "list", "--json", "--where", "tags.hall = 3").wants(t, 0); json.Unmarshal([]byte(got.out), &all) != nil || len(all) != 1 || all[0].DeviceID != "dev2" {
		t.Errorf("where tags.hall = 3:\n%s", got.out)
	}
	hubLine(t, "", "devices", "list", "--where", "tags.hall ~ 3").wants(t, 1, "400")

	hubLine(t, "", "devices", "disable", "dev1", "--reason", "stolen").wants(t, 0, "dev1 is disabled")
	shown := hubLine(t, "", "devices", "show", "dev1").wants(t, 0, "disabled: stolen", "camera")
	asJSON := hubLine(t, "", "devices", "show", "dev1", "--json").wants(t, 0, `"status": "disabled"`, `"statusReason": "stolen"`)
	if strings.Contains(shown.out+asJSON.out, key) {
		t.Error("show prints the key")
	}
	hubLine(t, "", "devices", "enable", "dev1").wants(t, 0)
	hubLine(t, "", "devices", "show", "dev1").wants(t, 0, "enabled")
	if now, err := hub.Register("dev1", ""); err != nil || now != key {
		t.Errorf("%v: after disabling and enabling the key is another", err)
	}
	hubLine(t, "", "devices", "disable", "dev1/camera").wants(t, 2, "its device dev1")

	hubLine(t, "", "devices", "add", "dev1").wants(t, 1, "409")
	hubLine(t, "", "devices", "add", "dev4", "--x509-ca", "--thumbprint", "AB").wants(t, 2)
	hubLine(t, "", "devices", "show", "dev9").wants(t, 4, "dev9")
	hubLine(t, "", "devices", "disable", "dev9").wants(t, 4)
	hubLine(t, "", "devices", "remove", "dev9", "--yes").wants(t, 4)
	hubLine(t, "", "connection-string").wants(t, 2, "--service")
	hubLine(t, "", "connection-string", "--service").wants(t, 0, hub.ServiceConnectionString())

	hubLine(t, "", "devices", "remove", "dev1").wants(t, 2, "its modules camera", "--yes")
	hubLine(t, "", "devices", "remove", "dev1/camera", "--yes").wants(t, 0)
	hubLine(t, "", "devices", "remove", "dev1", "--yes").wants(t, 0, "dev1 is removed")
	hubLine(t, "", "devices", "show", "dev1").wants(t, 4)
}

func TestAListHasEveryPage(t *testing.T) {
	hub := simulatedHub(t)
	const n = 2500
	for i := range n {
		if _, err := hub.Register(fmt.Sprintf("dev%04d", i), ""); err != nil {
			t.Fatal(err)
		}
	}
	got := hubLine(t, "", "devices", "list").wants(t, 0)
	if lines := strings.Count(got.out, "\n"); lines != n+1 {
		t.Errorf("%d lines of %d devices and a heading", lines, n)
	}
}

func TestCompletionKnowsDevicesModulesAndWords(t *testing.T) {
	hub := simulatedHub(t)
	for _, name := range []string{"boiler", "boiler-2", "mixer"} {
		if _, err := hub.Register(name, ""); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := hub.Register("boiler", "camera"); err != nil {
		t.Fatal(err)
	}
	note, err := readNote()
	if err != nil {
		t.Fatal(err)
	}
	note.Methods = map[gateway.IdentityID][]string{"mixer": {"stir", "setSpeed"}} // as of hubsim --mapping
	if err := writeNote(simulatorNote(), note); err != nil {
		t.Fatal(err)
	}
	for line, want := range map[string]string{
		"call mixer ":           "setSpeed\nstir\n",
		"devices show bo":       "boiler\nboiler-2\n",
		"twin get boiler/":      "boiler/camera\n",
		"send mixer x --ack ":   "none\npositive\nnegative\nfull\n",
		"watch --kind c":        "message\nconnection\ntwin\ndevice\nmethod\nall\n",
		"call boiler setSpeed ": "",
		"devices show boiler ":  "",
	} {
		words := append([]string{"__complete", "hub"}, strings.Split(line, " ")...)
		got := completed(t, words)
		if got != want {
			t.Errorf("%q is completed with %q, want %q", line, got, want)
		}
	}
}
