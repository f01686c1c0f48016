package e2e

import (
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"iothub-gateway/internal/testkit"
)

var printedString = regexp.MustCompile(`(?m)^HostName=.*$`)

// A person who runs the simulator needs nothing but what it prints.
func TestWhatHubsimPrintsIsAllThatTheSDKNeeds(t *testing.T) {
	for _, name := range []string{"localhost", "plant7.azure-devices.net"} {
		home := t.TempDir()
		t.Setenv("HOME", home)
		t.Setenv("XDG_CACHE_HOME", filepath.Join(home, "cache"))
		hub := launch(t, "hubsim", "--in-memory", "--host", name, "--mqtt", "127.0.0.1:0", "--https", "127.0.0.1:0",
			"--device", "dev1", "--device", "dev1/camera", "--tier", "S1")
		var strs []string
		testkit.Within(t, 20*time.Second, "it prints two connection strings", func() bool {
			strs = printedString.FindAllString(hub.String(), -1)
			return len(strs) == 2
		})
		service := noteOf(t, home)
		for i, module := range []string{"", "camera"} {
			d := startSDK(t, sdkConfig{Transport: "Mqtt", Module: module, ConnectionString: strs[i], CA: service.CA})
			d.do("open", nil)
			d.do("send", fields{"body": "hello"})
		}
		if all := service.messages(); len(all) != 2 || all[1].Module != "camera" {
			t.Errorf("the hub has %+v", all)
		}
	}
}

func TestFaultsAreSetWithATokenOfTheCommandLine(t *testing.T) {
	hub := startHubProcess(t)
	stdout, stderr, code := gatewayCommand(t, hub.dir, "hub", "token", "--service")
	if code != 0 {
		t.Fatalf("exit code %d\n%s", code, stderr)
	}
	s := hub.service()
	s.authorization = strings.TrimSpace(stdout)
	s.do("POST", "/hubsim/faults", `{"identity":"boiler","refuseConnects":{"code":3,"count":1}}`, nil)
	const events = "devices/boiler/messages/events/"
	for i, want := range []string{"Connection Refused: broker unavailable", ""} {
		got := hub.mosquitto("mosquitto_pub", "boiler", hub.token("boiler"), "-q", "1", "-t", events, "-m", "{}")
		if !strings.Contains(got.stderr, want) || (got.code == 0) != (want == "") {
			t.Errorf("attempt %d: exit code %d\n%s%s", i+1, got.code, got.stdout, got.stderr)
		}
	}
	for _, args := range [][]string{{"hub", "token"}, {"hub", "token", "boiler", "--service"}} {
		if _, stderr, code := gatewayCommand(t, hub.dir, args...); code != 2 || !strings.Contains(stderr, "name a device, or say --service") {
			t.Errorf("%v: exit code %d\n%s", args, code, stderr)
		}
	}
}
