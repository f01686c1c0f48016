package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	gateway "iothub-gateway"
	"iothub-gateway/devsim"
	"iothub-gateway/hubsim"
	"iothub-gateway/internal/control"
	"iothub-gateway/internal/testkit"
	"iothub-gateway/mapping"
)

// works is a plant whose mapping changes while it runs.
type works struct {
	*site
	sim     *devsim.Sim
	plant   *mapping.Plant // all devices that there could be
	service *service
	path    string
}

// device is the part of a mapping for one device with a link of its own, called as its identity; of every reading
// of count a message is made, name never changes.
func (w *works) device(name, address, more string) string {
	return fmt.Sprintf(`
  %s:
    identity: { device: %s, sas_key: file:%[1]s }
    modbus: { tcp: "%[3]s", unit: 1, addressing: zero, timeout: 20s }
    poll: 20ms
    points:
      count: { at: input 0, type: uint32, publish: { on: poll } }
      name: { at: holding 20, type: string(8) }
      setpoint: { at: holding 10, type: int16, write: { min: 0, max: 100 }, hidden: true }
      %[4]s
    methods: { set: { write: setpoint, from: value, timeout: 20s }, tonight: { write: setpoint, from: value, deliver: queued, expires: 1h } }
`, name, name, address, more)
}

func newWorks(t *testing.T, names ...string) *works {
	t.Helper()
	w := &works{site: newSite(t, hubsim.Config{})}
	w.file("ca.pem", string(w.hub.CAPEM()))
	all := "devices:"
	for i, name := range names {
		w.file(name, w.key(name, ""))
		all += w.device(name, fmt.Sprintf("10.0.0.%d:502", i), "extra: { at: holding 30, type: int16 }")
	}
	var findings mapping.Findings
	if w.plant, findings = mapping.Parse("works.yaml", []byte("version: 1\nhub: { host: localhost }\n"+all)); w.plant == nil {
		t.Fatal(findings)
	}
	var err error
	if w.sim, err = devsim.New(devsim.Config{Plant: w.plant, Seed: 1, Log: zerolog.Nop()}); err != nil {
		t.Fatal(err)
	}
	testkit.Background(t, w.sim.Run)
	w.path = filepath.Join(w.dir, "mapping.yaml")
	return w
}

// at is the part of a device with its real address.
func (w *works) at(name, more string) string {
	for i, d := range w.plant.Devices {
		if d.Name == name {
			return w.device(name, w.sim.Addr(w.plant.Links[i].Name), more)
		}
	}
	w.t.Fatalf("no device %s", name)
	return ""
}

// write writes the mapping.
func (w *works) write(devices ...string) {
	w.t.Helper()
	text := "version: 1\nhub: { host: \"localhost:" + portOf(w.hub.MQTTAddr()) + "\", trust: file:ca.pem }\ndevices:" + strings.Join(devices, "")
	w.file("mapping.yaml", text)
}

// run runs a gateway on what is written, with its control socket in the site's directory, until stop.
func (w *works) run() (stop func()) {
	w.t.Helper()
	l, err := load(w.path)
	if err != nil || l.plant == nil {
		w.t.Fatal(err, l.findings)
	}
	w.service, err = newService(serviceConfig{
		plant: l.plant, mappingPath: w.path, stateDir: filepath.Join(w.dir, "state"), roots: l.roots, secrets: secretSource(w.path),
		clock: newClock(true), log: zerolog.Nop(), drain: time.Minute, load: func() (loaded, error) { return load(w.path) },
	})
	if err != nil {
		w.t.Fatal(err)
	}
	tasks, err := watchTasks(runOptions{runtime: w.dir, health: "off", log: zerolog.Nop()}, w.service)
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- w.service.Run(ctx, tasks...) }()
	return sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			w.t.Error(err)
		}
	})
}

// reload asks the running gateway.
func (w *works) reload(flags ...string) (reply control.ReloadReply, code int) {
	w.t.Helper()
	code, out, problems := command(w.t, append([]string{"reload", "--json", "--runtime-dir", w.dir}, flags...)...)
	if err := json.Unmarshal([]byte(out), &reply); err != nil {
		w.t.Fatalf("exit %d, %v: %s%s", code, err, out, problems)
	}
	return reply, code
}

// judge holds all that the hub has against the oracle: 1..n of each lane, without a hole, and no repeat.
func (w *works) judge() (lanes map[gateway.IdentityID]uint64) {
	w.t.Helper()
	oracle := newTally()
	for _, m := range w.hub.Messages(0, 0) {
		oracle.take(m)
	}
	if oracle.missing > 0 || oracle.repeated > 0 {
		w.t.Errorf("%d messages are missing, %d came twice", oracle.missing, oracle.repeated)
	}
	return oracle.lanes
}

// times is in how many messages of an identity a field is.
func (w *works) times(id, field string) (n int) {
	for _, m := range w.hub.Messages(0, 0) {
		var body map[string]any
		if m.Device == id && json.Unmarshal(m.Body, &body) == nil && body[field] != nil {
			n++
		}
	}
	return n
}

// goesOn waits until each of the identities has more messages at the hub than now.
func (w *works) goesOn(ids ...string) {
	w.t.Helper()
	before := len(w.hub.Messages(0, 0))
	for _, id := range ids {
		testkit.Eventually(w.t, id+" goes on", func() bool {
			for _, m := range w.hub.Messages(0, 0)[before:] {
				if m.Device == id {
					return true
				}
			}
			return false
		})
	}
}

// connects is how often the hub has accepted an identity since it is in the mapping.
func (w *works) connects(id string) uint64 {
	for _, l := range w.service.pool.Stats() {
		if string(l.Identity) == id {
			return l.Connects
		}
	}
	return 0
}

func TestAReloadAddsRemovesAndChangesWithoutTouchingOthers(t *testing.T) {
	t.Parallel()
	w := newWorks(t, "stays", "goes", "alters", "comes")
	w.write(w.at("stays", ""), w.at("goes", ""), w.at("alters", ""))
	stop := w.run()
	defer stop()
	w.goesOn("stays", "goes", "alters")
	staying := w.service.now.Load().links[0]

	w.write(w.at("stays", ""), w.at("alters", "extra: { at: holding 30, type: int16 }"), w.at("comes", ""))
	reply, code := w.reload("--dry-run")
	c := *reply.Changes
	got := fmt.Sprint(code, c.Identities, len(c.Links.Added), len(c.Links.Removed), len(c.Links.Changed), c.Links.Untouched, c.Points.Added, c.Points.Untouched)
	want := "0 {[comes] [goes] [] 2} 1 1 1 1 [alters/extra comes/count comes/name comes/setpoint] 6"
	if got != want || w.service.now.Load().number != 1 {
		t.Errorf("got  %s\nwant %s", got, want)
	}

	// A command that is under way at the link that is restarted gets its answer.
	link := w.plant.Links[2].Name
	w.sim.Delay(link, 1, 300*time.Millisecond)
	answered := make(chan hubsim.MethodResult, 1)
	requests := w.sim.Requests(link)
	go func() {
		r, err := w.hub.CallMethod(context.Background(), hubsim.MethodCall{Device: "alters", Name: "set", Payload: []byte(`{"value":42}`), ConnectTimeout: 5 * time.Second, ResponseTimeout: 25 * time.Second})
		if err != nil {
			t.Error(err)
		}
		answered <- r
	}()
	testkit.Eventually(t, "the command is at its device", func() bool {
		return w.service.now.Load().links[2].commands.now() > 0 && w.sim.Requests(link) > requests
	})
	if reply, code := w.reload(); code != exitOK || len(reply.Refused) > 0 {
		t.Fatalf("exit %d, %v", code, reply.Refused)
	}
	if r := <-answered; r.Status != 200 {
		t.Errorf("the command: %d %s", r.Status, r.Payload)
	}
	w.sim.Delay(link, 1, 0)

	w.goesOn("stays", "alters", "comes")
	testkit.Eventually(t, "the new point is reported", func() bool { return w.times("alters", "extra") > 0 })
	if w.connects("stays") != 1 || w.connects("alters") != 1 || w.connects("goes") != 0 || w.hub.Connected("goes") || w.service.now.Load().links[0] != staying {
		t.Errorf("connects: %d, %d, %d", w.connects("stays"), w.connects("alters"), w.connects("goes"))
	}
	if code, out, problems := command(t, "read", "comes/name", "--runtime-dir", w.dir); code != exitOK {
		t.Errorf("exit %d: %s%s", code, out, problems)
	}
	if code, _, problems := command(t, "read", "goes/name", "--runtime-dir", w.dir); code != exitFailed || !strings.Contains(problems, "unknown point") {
		t.Errorf("exit %d: %s", code, problems)
	}
	page := w.service.Status()
	if len(w.service.pool.Stats()) != 3 || len(page.Links) != 3 || len(page.Devices) != 3 || page.Loaded.Reloads != 1 {
		t.Errorf("%+v", page)
	}
	stop()
	lanes := w.judge()
	for id, counts := range w.service.queue.Stats().Lanes {
		left := counts.Entries
		if id == "goes" { // what it had not delivered waits until it is back
			left = 0
		}
		if left > 0 || lanes[id]+uint64(counts.Entries) != counts.Put {
			t.Errorf("%s: %d of %d came, %d wait", id, lanes[id], counts.Put, counts.Entries)
		}
	}
	for _, id := range []string{"stays", "goes", "alters", "comes"} {
		if n := w.times(id, "name"); n != 1 {
			t.Errorf("what never changes of %s was reported %d times", id, n)
		}
	}
}

func TestAMappingThatIsNotGoodChangesNothing(t *testing.T) {
	t.Parallel()
	w := newWorks(t, "a", "b")
	w.write(w.at("a", ""))
	stop := w.run()
	defer stop()
	w.goesOn("a")
	g := w.service.now.Load()
	for _, c := range []struct {
		what, says string
		change     func()
	}{
		{"a mistake", "mapping.yaml:23:38: E127", func() { w.write(w.at("a", ""), w.at("b", "extra: { at: holding 30, type: int61 }")) }},
		{"a missing key", "keys/absent", func() { w.write(w.at("a", ""), strings.Replace(w.at("b", ""), "file:b", "file:keys/absent", 1)) }},
		{"another hub", "hub.host", func() {
			w.write(w.at("a", ""), w.at("b", ""))
			w.edit("localhost:", "otherhost:")
		}},
		{"another hub, seen also while a key is missing", "hub.host", func() {
			w.write(w.at("a", ""), strings.Replace(w.at("b", ""), "file:b", "file:keys/absent", 1))
			w.edit("localhost:", "otherhost:")
		}},
		{"the queue", "buffer", func() {
			w.write(w.at("a", ""), w.at("b", ""))
			w.edit("devices:", "buffer: { max_age: 2d }\ndevices:")
		}},
		{"no mapping", "no mapping", func() {
			if err := os.Remove(w.path); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		c.change()
		for _, flags := range [][]string{{"--dry-run"}, {}} {
			code, out, problems := command(t, append([]string{"reload", "--runtime-dir", w.dir}, flags...)...)
			if code != exitFailed || out != "" || !strings.Contains(problems, c.says) || !strings.Contains(problems, "refused") {
				t.Errorf("%s: exit %d: %s%s", c.what, code, out, problems)
			}
		}
		if refused := w.service.Status().Loaded.Refused; w.service.now.Load() != g || refused == "" {
			t.Errorf("%s: another mapping runs; refused: %q", c.what, refused)
		}
	}
	w.goesOn("a")
	if w.connects("a") != 1 {
		t.Errorf("%d connects", w.connects("a"))
	}
	w.write(w.at("a", ""), w.at("b", ""))
	if _, code := w.reload(); code != exitOK || w.service.Status().Loaded.Refused != "" {
		t.Errorf("put right: exit %d", code)
	}
	w.goesOn("a", "b")
	stop()
	w.judge()
}

// edit replaces a text of the mapping.
func (w *works) edit(old, new string) {
	w.t.Helper()
	text, err := os.ReadFile(w.path)
	if err != nil {
		w.t.Fatal(err)
	}
	w.file("mapping.yaml", strings.Replace(string(text), old, new, 1))
}

func TestReloadsAtTheSameTimeComeOneAfterTheOther(t *testing.T) {
	t.Parallel()
	w := newWorks(t, "a", "b", "c")
	w.write(w.at("a", ""), w.at("b", ""), w.at("c", ""))
	stop := w.run()
	defer stop()
	w.goesOn("a", "b", "c")
	var all sync.WaitGroup
	for i := range 12 {
		if i%2 == 0 {
			w.write(w.at("a", ""), w.at("b", "extra: { at: holding 30, type: int16 }"))
		} else {
			w.write(w.at("c", ""), w.at("a", ""))
		}
		all.Go(func() {
			if r, err := w.service.Reload(t.Context(), false); err != nil || len(r.Refused) > 0 {
				t.Errorf("%v %v", err, r.Refused)
			}
		})
	}
	all.Wait()
	w.write(w.at("a", ""), w.at("b", ""), w.at("c", ""))
	if _, code := w.reload(); code != exitOK {
		t.Errorf("exit %d", code)
	}
	w.goesOn("a", "b", "c")
	if w.connects("a") != 1 {
		t.Errorf("%d connects of what stayed", w.connects("a"))
	}
	stop()
	w.judge()
}
