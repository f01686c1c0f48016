//go:build proof

package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"iothub-gateway/hubsim"
	"iothub-gateway/internal/testkit"
)

const (
	mappingPath    = "/etc/iothub-gateway/mapping.yaml"
	credentialsDir = "/etc/iothub-gateway/credentials"
	servedKeys     = "/run/credentials/" + unitName
)

// installation is the gateway installed in a box as docs/service.md says, with a hub and a PLC there.
type installation struct {
	*box
	hub     *hubsim.Hub
	mapping []byte
	keys    map[string]string // by credential name
}

func install(t *testing.T) *installation {
	t.Helper()
	i := &installation{box: boot(t, debianRoot(t)), keys: map[string]string{}}
	var plc *plc
	i.inNetwork(func() { i.hub, plc = startHub(t), startPLC(t) })
	devices := strings.ReplaceAll(plc.devices("50ms"), "file:keys/", "credential:")
	files := newPlant(t, i.hub, devices, plcIdentities...)
	read := func(path string) []byte {
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return content
	}
	i.mapping = read(files.mapping)
	i.install("/etc/hosts", 0o644, []byte("127.0.0.1 localhost\n"))
	i.install("/etc/iothub-gateway/ca.pem", 0o644, i.hub.CAPEM())
	for _, id := range plcIdentities {
		name := strings.ReplaceAll(id, "/", "-")
		key := read(filepath.Join(files.dir, "keys", name))
		i.keys[name] = strings.TrimSpace(string(key))
		i.install(filepath.Join(credentialsDir, name), 0o600, key)
	}
	i.install(unitExec, 0o755, read(binary))
	i.install("/etc/systemd/system/"+unitName, 0o644, read(unitFile))
	i.run(t, "systemctl", "enable", "--quiet", unitName)
	return i
}

// busy are the lanes that get a message at every poll; the third gets one a start.
var busy = []string{"press/", "cell/oven"}

// flows waits until every busy lane has gone on for a while, and returns how all of them stand.
func (i *installation) flows(t *testing.T) (lanes map[string]lane) {
	t.Helper()
	before := judge(t, i.hub)
	testkit.Within(t, 30*time.Second, "messages arrive at the hub", func() bool {
		lanes = judge(t, i.hub)
		for _, id := range busy {
			if lanes[id].newest < before[id].newest+10 {
				return false
			}
		}
		return true
	})
	return lanes
}

// repeats wants no lane to have repeated more than most messages since before.
func repeats(t *testing.T, before, after map[string]lane, most int) {
	t.Helper()
	for id, l := range after {
		if again := l.repeated - before[id].repeated; again > most {
			t.Errorf("%s: %d messages came again, more than %d", id, again, most)
		}
	}
}

func TestSystemdRunsTheGatewayAsAService(t *testing.T) {
	i := install(t)
	for _, step := range []struct {
		name string
		show func(*testing.T, *installation)
	}{
		{"start returns only when the gateway is ready", startWaits},
		{"status shows that it is active and what it is doing", statusTells},
		{"messages arrive at the hub", messagesArrive},
		{"keys come as credentials and their files are closed to the service", keysAreClosed},
		{"the process is confined", processIsConfined},
		{"the journal knows what is a warning", journalHasPriorities},
		{"a reload takes over a changed mapping and refuses a wrong one", reloadTakesOver},
		{"a restart loses and repeats nothing", restartKeepsState},
		{"a gateway that hangs is restarted and loses nothing", watchdogRestarts},
		{"stop ends cleanly and keeps the queue", stopIsClean},
		{"a user of its own may own key files, and the queue goes on", ownUserServes},
	} {
		began := time.Now()
		if !t.Run(step.name, func(t *testing.T) { step.show(t, i) }) {
			t.FailNow() // the next step stands on this one
		}
		t.Logf("%5.1f s  %s", time.Since(began).Seconds(), step.name)
	}
}

// The mapping is a pipe, so that the gateway cannot get ready before we let it.
func startWaits(t *testing.T, i *installation) {
	pipe := i.path(mappingPath)
	if err := syscall.Mkfifo(pipe, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(pipe, 0o644); err != nil {
		t.Fatal(err)
	}
	started := make(chan error, 1)
	go func() {
		out, err := i.try("systemctl", "start", unitName)
		if err != nil {
			err = fmt.Errorf("systemctl start: %w\n%s", err, out)
		}
		started <- err
	}()
	var writer *os.File
	testkit.Within(t, 20*time.Second, "the gateway reads its mapping", func() (ok bool) {
		var err error
		writer, err = os.OpenFile(pipe, os.O_WRONLY|syscall.O_NONBLOCK, 0)
		return err == nil
	})
	defer writer.Close()
	select {
	case err := <-started:
		t.Fatalf("systemctl start returned although the gateway has not even read its mapping: %v", err)
	case <-time.After(2 * time.Second):
	}
	if state := i.property(t, "ActiveState"); state != "activating" {
		t.Fatalf("before it is ready the service is %s", state)
	}
	if _, err := writer.Write(i.mapping); err != nil {
		t.Fatal(err)
	}
	writer.Close()
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	if state := strings.TrimSpace(i.run(t, "systemctl", "is-active", unitName)); state != "active" {
		t.Errorf("after start it is %s", state)
	}
	if page, _ := i.try(unitExec, "status"); !strings.Contains(page, "is running") { // it fails while an identity is offline
		t.Errorf("it says that it is ready, but does not answer:\n%s", page)
	}
	if err := os.Remove(pipe); err != nil {
		t.Fatal(err)
	}
	i.install(mappingPath, 0o644, i.mapping)
}

func statusTells(t *testing.T, i *installation) {
	testkit.Within(t, 20*time.Second, "the status line tells of connected identities", func() bool {
		return strings.Contains(i.property(t, "StatusText"), "3 of 3 identities connected")
	})
	page := i.run(t, "systemctl", "status", "--no-pager", unitName)
	for _, want := range []string{"Active: active (running)", `Status: "`, "3 of 3 identities connected"} {
		if !strings.Contains(page, want) {
			t.Errorf("systemctl status has no %q:\n%s", want, page)
		}
	}
	const ask = `exec 3<>/dev/tcp/127.0.0.1/8080; printf 'GET /healthz HTTP/1.0\r\n\r\n' >&3; cat <&3`
	if page := i.run(t, "bash", "-c", ask); !strings.Contains(page, "200 OK") || !strings.Contains(page, `"state":`) {
		t.Errorf("the health page says %q", page)
	}
	t.Log(i.property(t, "StatusText"))
}

func messagesArrive(t *testing.T, i *installation) { i.flows(t) }

func keysAreClosed(t *testing.T, i *installation) {
	for name, key := range i.keys {
		if out, err := i.asService(t, "cat", filepath.Join(servedKeys, "keys_"+name)); err != nil || strings.TrimSpace(out) != key {
			t.Errorf("credential %s: %v", name, err) // out may be a key
		}
		if out, err := i.asService(t, "cat", filepath.Join(credentialsDir, name)); err == nil || !strings.Contains(out, "Permission denied") {
			t.Errorf("the service's user can read the key file of %s: %v", name, err)
		}
		const nobody = "65534"
		if out, err := i.try("setpriv", "--reuid="+nobody, "--regid="+nobody, "--clear-groups", "cat", filepath.Join(servedKeys, "keys_"+name)); err == nil || !strings.Contains(out, "Permission denied") {
			t.Errorf("any user can read the credential %s: %v", name, err)
		}
		if strings.Contains(i.run(t, "journalctl", "--no-pager", "--output=json"), key) {
			t.Errorf("the key of %s is in the journal", name)
		}
	}
}

func processIsConfined(t *testing.T, i *installation) {
	pid := i.property(t, "MainPID")
	text, err := os.ReadFile(i.path("/proc/" + pid + "/status"))
	if err != nil {
		t.Fatal(err)
	}
	facts := map[string]string{}
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(line, ":")
		facts[name] = strings.TrimSpace(value)
	}
	for name, want := range map[string]string{"NoNewPrivs": "1", "Seccomp": "2", "CapEff": "0000000000000000", "CapBnd": "0000000000000000"} {
		if facts[name] != want {
			t.Errorf("%s is %q, want %q", name, facts[name], want)
		}
	}
	if i.owner(t, "/proc/"+pid) == 0 {
		t.Error("it runs as root")
	}
	for _, place := range []string{"/etc/iothub-gateway", "/usr/bin", "/home", "/"} {
		if _, err := i.asService(t, "touch", filepath.Join(place, "mark")); err == nil {
			t.Errorf("it can write to %s", place)
		}
	}
	if out, err := i.asService(t, "touch", "/var/lib/iothub-gateway/mark"); err != nil {
		t.Errorf("it cannot write to its own state directory: %v %s", err, out)
	}
}

func journalHasPriorities(t *testing.T, i *installation) {
	const info, warning = "gateway started", "no connection to the hub"
	priority := func(entries []entry, text string) string {
		for _, e := range entries {
			if strings.Contains(e.Message, text) {
				return e.Priority
			}
		}
		return "none"
	}
	if !i.hub.Kick("press") {
		t.Fatal("press was not connected")
	}
	testkit.Within(t, 20*time.Second, "the journal warns of the lost connection", func() bool {
		return priority(i.journal(t, "warning"), warning) != "none"
	})
	warnings, all := i.journal(t, "warning"), i.journal(t, "debug")
	if got := priority(all, warning); got != "4" {
		t.Errorf("%q has priority %s, want 4", warning, got)
	}
	if got := priority(all, info); got != "6" {
		t.Errorf("%q has priority %s, want 6", info, got)
	}
	if got := priority(warnings, info); got != "none" {
		t.Errorf("%q is among the warnings", info)
	}
	for _, e := range all {
		if strings.HasPrefix(e.Message, "<") {
			t.Errorf("the priority stands in the text: %s", e.Message)
		}
	}
}

func reloadTakesOver(t *testing.T, i *installation) {
	defer i.install(mappingPath, 0o644, i.mapping)
	before, pid := i.flows(t), i.property(t, "MainPID")
	i.install(mappingPath, 0o644, []byte(strings.Replace(string(i.mapping), "cycles:   {", "rounds:   {", 1)))
	i.run(t, "systemctl", "reload", unitName)
	i.install(mappingPath, 0o644, []byte("version: 2\n"))
	if out, err := i.try("systemctl", "reload", unitName); err == nil {
		t.Errorf("a wrong mapping was taken over: %s", out)
	}
	if state := i.property(t, "ActiveState"); state != "active" || i.property(t, "MainPID") != pid {
		t.Errorf("after the reloads it is %s, with another process", state)
	}
	repeats(t, before, i.flows(t), 0)
	renamed := false
	for _, m := range i.hub.Messages(0, 100_000) {
		_, ok := field[any](t, m.Body, "rounds")
		renamed = renamed || ok
	}
	if why := i.run(t, "journalctl", "--no-pager", "--output=cat", "--unit="+unitName); !renamed || !strings.Contains(why, "mapping.yaml:1:10: E") {
		t.Errorf("taken over: %v; the journal says\n%s", renamed, why)
	}
	i.install(mappingPath, 0o644, i.mapping)
	i.run(t, "systemctl", "reload", unitName)
}

func restartKeepsState(t *testing.T, i *installation) {
	i.hub.DelayAcks("", 100*time.Millisecond) // so that something is in flight
	defer i.hub.DelayAcks("", 0)
	before, pid := i.flows(t), i.property(t, "MainPID")
	i.run(t, "systemctl", "restart", unitName)
	if i.property(t, "MainPID") == pid {
		t.Error("it was not restarted")
	}
	after := i.flows(t)
	repeats(t, before, after, 0)
	t.Logf("messages before %v, after %v", before, after)
}

func watchdogRestarts(t *testing.T, i *installation) {
	i.install("/etc/systemd/system/"+unitName+".d/watchdog.conf", 0o644, []byte("[Service]\nWatchdogSec=6\n"))
	i.run(t, "systemctl", "daemon-reload")
	i.run(t, "systemctl", "restart", unitName)
	if got := i.property(t, "WatchdogUSec"); got != "6s" {
		t.Fatalf("WatchdogSec is %s", got)
	}
	i.hub.DelayAcks("", 100*time.Millisecond) // so that something is in flight
	defer i.hub.DelayAcks("", 0)
	i.flows(t)
	pid, before := i.property(t, "MainPID"), judge(t, i.hub)
	i.run(t, "systemctl", "kill", "--kill-whom=main", "--signal=STOP", unitName)
	stopped := time.Now()
	testkit.Within(t, 30*time.Second, "the watchdog restarts it", func() bool {
		return i.property(t, "NRestarts") != "0" && i.property(t, "ActiveState") == "active"
	})
	restarted := time.Since(stopped)
	if why := i.run(t, "journalctl", "--no-pager", "--output=cat", "--unit="+unitName, "--grep=Watchdog timeout"); !strings.Contains(why, "limit 6s") {
		t.Errorf("it was restarted, but not by the watchdog: %q", why)
	}
	if i.property(t, "MainPID") == pid {
		t.Error("the process is still the one that hung")
	}
	after := i.flows(t)
	repeats(t, before, after, 2*window)
	t.Logf("active again %.1f s after it hung; messages before %v, after %v", restarted.Seconds(), before, after)
}

func stopIsClean(t *testing.T, i *installation) {
	began := time.Now()
	i.run(t, "systemctl", "stop", unitName)
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("stopping took %v", took)
	} else {
		t.Logf("stopped in %v", took.Round(time.Millisecond))
	}
	for name, want := range map[string]string{"ActiveState": "inactive", "Result": "success", "ExecMainStatus": "0", "MainPID": "0"} {
		if got := i.property(t, name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	entries := i.journal(t, "info")
	if last := entries[len(entries)-1]; !strings.Contains(last.Message, "gateway stopped") {
		t.Errorf("its last word is %q", last.Message)
	}
	if info, err := os.Stat(i.path("/var/lib/private/iothub-gateway/queue/00000001.db")); err != nil || info.Size() == 0 {
		t.Errorf("the queue is gone: %v", err)
	}
	if _, err := os.Stat(i.path("/run/iothub-gateway")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the control socket's directory is still there: %v", err)
	}
	judge(t, i.hub)
}

// What the unit's head says of mappings with file: keys.
func ownUserServes(t *testing.T, i *installation) {
	i.run(t, "useradd", "--system", "--no-create-home", "iothub-gateway")
	for name, key := range i.keys {
		i.install(filepath.Join("/etc/iothub-gateway/keys", name), 0o600, []byte(key))
	}
	i.run(t, "chown", "-R", "iothub-gateway:", "/etc/iothub-gateway/keys")
	i.install(mappingPath, 0o644, []byte(strings.ReplaceAll(string(i.mapping), "credential:", "file:keys/")))
	i.run(t, "systemctl", "start", unitName)
	i.flows(t)
	want := strings.TrimSpace(i.run(t, "id", "--user", "iothub-gateway"))
	if got := i.owner(t, "/proc/"+i.property(t, "MainPID")); strconv.FormatUint(uint64(got), 10) != want {
		t.Errorf("it runs as user %d, want %s", got, want)
	}
	i.run(t, "systemctl", "stop", unitName)
}
