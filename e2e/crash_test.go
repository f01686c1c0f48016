package e2e

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"iothub-gateway/internal/control"
	"iothub-gateway/internal/testkit"
)

// drained waits until the running gateway has delivered everything that it accepted before the call. It
// may go on polling meanwhile, so that its queue is hardly ever empty.
func drained(t *testing.T, p *plant) {
	t.Helper()
	called := time.Now()
	testkit.Within(t, 30*time.Second, "what was accepted so far has been delivered", func() bool {
		page, err := p.status()
		return err == nil && page.Queue.Acked > 0 && !slices.ContainsFunc(page.Identities, func(id control.IdentityStatus) bool {
			return id.Waiting > 0 && !id.Oldest.After(called)
		})
	})
}

// window is how far a connection loss may rewind a lane; a killed process also forgets the
// acknowledgements of its last commit, which are at most a window's too.
const window = 16

func TestKillingTheProcessAtRandomMomentsLosesNothing(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	hub, plc := startHub(t), startPLC(t)
	plant := newPlant(t, hub, plc.devices("5ms"), plcIdentities...)
	const cycles = 20
	for range cycles {
		gateway := plant.start()
		before := hub.Received()
		testkit.Within(t, 20*time.Second, "messages arrive after the restart", func() bool { return hub.Received() > before })
		pause := time.NewTimer(time.Duration(random.IntN(400)) * time.Millisecond)
		<-pause.C
		gateway.kill()
	}
	gateway := plant.start()
	drained(t, plant)
	gateway.stop()
	lanes := judge(t, hub)
	for _, id := range []string{"press/", "cell/oven"} {
		l := lanes[id]
		if l.newest < cycles {
			t.Errorf("%s: only %d messages in %d cycles", id, l.newest, cycles)
		}
		if most := cycles * 4 * window; l.repeated > most {
			t.Errorf("%s: %d repeats in %d kills, more than %d", id, l.repeated, cycles, most)
		}
		t.Logf("%s: %d messages, 0 lost, %d repeated over %d kills", id, l.newest, l.repeated, cycles)
	}
}

func TestStoppingInMidFlushLosesAndRepeatsNothing(t *testing.T) {
	hub, plc := startHub(t), startPLC(t)
	plant := newPlant(t, hub, plc.devices("5ms"), plcIdentities...)
	hub.DelayAcks("", 150*time.Millisecond) // so that something is always in flight
	for range 3 {
		gateway := plant.start()
		before := hub.Received()
		testkit.Within(t, 20*time.Second, "messages are in flight", func() bool { return hub.Received() > before+30 })
		gateway.stop()
	}
	hub.DelayAcks("", 0)
	gateway := plant.start()
	drained(t, plant)
	gateway.stop()
	for id, l := range judge(t, hub) {
		if l.repeated > 0 {
			t.Errorf("%s: %d of %d messages came twice", id, l.repeated, l.newest)
		}
	}
}

func TestASecondInstanceOnTheSameStateIsRefused(t *testing.T) {
	hub, plc := startHub(t), startPLC(t)
	plant := newPlant(t, hub, plc.devices("100ms"), plcIdentities...)
	plant.start()
	testkit.Within(t, 20*time.Second, "the first instance runs", func() bool { _, err := plant.status(); return err == nil })
	_, stderr, code := gatewayCommand(t, plant.dir, "run", plant.mapping, "--state-dir", plant.state(), "--runtime-dir", plant.dir+"/run2", "--health", "off")
	if code != 1 || !strings.Contains(stderr, plant.state()) || !strings.Contains(stderr, "another gateway") {
		t.Errorf("exit code %d, said %q", code, stderr)
	}
	if _, err := plant.status(); err != nil {
		t.Errorf("the first instance suffered: %v", err)
	}
}

func TestAMappingWithTwelveMistakesStartsNothing(t *testing.T) {
	dir := t.TempDir()
	text, err := os.ReadFile("../mapping/testdata/twelve.bad.yaml")
	if err != nil {
		t.Fatal(err)
	}
	path := dir + "/mapping.yaml"
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	stdout, _, code := gatewayCommand(t, dir, "check", path)
	if found := strings.Count(stdout, path+":"); code != 1 || found < 12 {
		t.Errorf("check: exit code %d, %d findings:\n%s", code, found, stdout)
	}
	stdout, stderr, code := gatewayCommand(t, dir, "run", path, "--state-dir", dir+"/state", "--runtime-dir", dir+"/run")
	if code != 1 || !strings.Contains(stdout+stderr, "nothing was started") {
		t.Errorf("run: exit code %d\n%s%s", code, stdout, stderr)
	}
	for _, made := range []string{"state", "run"} {
		if _, err := os.Stat(dir + "/" + made); err == nil {
			t.Errorf("%s was made although nothing should start", made)
		}
	}
}

func TestTheShippedExampleIsGoodAndRunNeedsItsKeys(t *testing.T) {
	stdout, stderr, code := gatewayCommand(t, "..", "check")
	if code != 0 || strings.Contains(stdout, "E0") || strings.Contains(stdout, "E1") {
		t.Errorf("check: exit code %d\n%s%s", code, stdout, stderr)
	}
	dir := t.TempDir()
	stdout, stderr, code = gatewayCommand(t, "..", "run", "--state-dir", dir+"/state", "--runtime-dir", dir+"/run")
	if code != 1 || !strings.Contains(stderr, "secret is missing") {
		t.Errorf("run without keys: exit code %d\n%s%s", code, stdout, stderr)
	}
	if _, err := os.Stat(dir + "/state"); err == nil {
		t.Error("a state directory was made although nothing should start")
	}
}

func TestTheDemoDeliversEverythingAndItsMethodWorks(t *testing.T) {
	t.Setenv("HOME", t.TempDir())
	t.Setenv("XDG_CACHE_HOME", "")
	stdout, stderr, code := gatewayCommand(t, t.TempDir(), "demo", "--for", "6s", "--json")
	if code != 0 {
		t.Fatalf("exit code %d\n%s%s", code, stdout, stderr)
	}
	summary := []byte(stdout)
	number := func(name string) float64 {
		v, ok := field[float64](t, summary, name)
		if !ok {
			t.Errorf("the summary has no %s: %s", name, stdout)
		}
		return v
	}
	if number("read") == 0 || number("queued") == 0 || number("delivered") != number("queued") || number("lost") != 0 || number("method_ms") <= 0 {
		t.Errorf("summary %s", stdout)
	}
	if first := number("first_message_ms"); first > 3000 {
		t.Errorf("the first message came after %v ms", first)
	}
	fmt.Printf("demo: %s", stdout)
}
