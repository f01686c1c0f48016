package e2e

import (
	"encoding/json"
	"strconv"
	"strings"
	"testing"
	"time"

	"iothub-gateway/hubsim"
	"iothub-gateway/internal/control"
	"iothub-gateway/internal/testkit"
)

// queue runs `gateway queue` on the plant.
func (p *plant) queue(args ...string) (stdout, stderr string, code int) {
	p.t.Helper()
	return gatewayCommand(p.t, p.dir, append([]string{"queue", "--state-dir", p.state(), "--runtime-dir", p.runtime()}, args...)...)
}

// lane asks for one lane with `gateway queue list`.
func (p *plant) lane(identity string) (lane control.LaneStatus) {
	p.t.Helper()
	stdout, stderr, code := p.queue("list", "--json")
	var page control.QueuePage
	if err := json.Unmarshal([]byte(stdout), &page); err != nil || code != 0 || page.State != "working" {
		p.t.Fatalf("exit code %d, %v\n%s%s", code, err, stdout, stderr)
	}
	for _, l := range page.Lanes {
		if l.Identity == identity {
			lane = l
		}
	}
	return lane
}

// exported is what `gateway queue export` has of one identity.
func (p *plant) exported(identity string) (entries []control.QueueEntry) {
	p.t.Helper()
	stdout, stderr, code := p.queue("export", identity)
	if code != 0 {
		p.t.Fatalf("exit code %d: %s", code, stderr)
	}
	for line := range strings.Lines(stdout) {
		var e control.QueueEntry
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			p.t.Fatalf("%v: %s", err, line)
		}
		if n := len(entries); n > 0 && e.First != entries[n-1].Last+1 {
			p.t.Errorf("number %d follows on %d", e.First, entries[n-1].Last)
		}
		entries = append(entries, e)
	}
	return entries
}

func TestTheQueueIsLookedIntoAndChangedWhileTheGatewayRunsAndAfterItDied(t *testing.T) {
	hub, plc := startHub(t), startPLC(t)
	plant := newPlant(t, hub, plc.devices("20ms"), plcIdentities...)
	hub.RefuseConnects("press", 3, 1<<30)
	gateway := plant.start()
	testkit.Within(t, 20*time.Second, "messages of press wait", func() bool {
		page, err := plant.status()
		for _, id := range page.Identities {
			if err == nil && id.Identity == "press" && id.Waiting >= 20 {
				return true
			}
		}
		return false
	})
	if l := plant.lane("press"); l.Entries < 20 || !strings.Contains(l.LastError, "refused") || time.Since(l.Oldest) > time.Minute {
		t.Errorf("%+v", l)
	}
	if all := plant.exported("press"); len(all) < 20 || all[0].First != 1 || !json.Valid(all[0].Body) {
		t.Errorf("%d exported, the first is %+v", len(all), all[0])
	}
	if stdout, stderr, code := plant.queue("show", "press", "--limit", "3"); code != 0 || strings.Count(stdout, "{") < 3 {
		t.Errorf("show: exit code %d\n%s%s", code, stdout, stderr)
	}
	if stdout, stderr, code := plant.queue("verify"); code != 0 {
		t.Errorf("verify: exit code %d\n%s%s", code, stdout, stderr)
	}
	if _, stderr, code := plant.queue("drop", "press"); code != 2 || !strings.Contains(stderr, "--yes") {
		t.Errorf("drop without a word: exit code %d\n%s", code, stderr)
	}
	if _, stderr, code := plant.queue("repair"); code != 1 || !strings.Contains(stderr, "stop it") {
		t.Errorf("repair: exit code %d\n%s", code, stderr)
	}
	if _, stderr, code := plant.queue("drop", "press", "--yes"); code != 0 {
		t.Fatalf("drop: exit code %d\n%s", code, stderr)
	}
	testkit.Within(t, 20*time.Second, "new messages of press wait", func() bool { return plant.lane("press").Entries >= 5 })
	gateway.kill()

	entries := plant.exported("press")
	if !entries[0].Gap || entries[0].First != 1 || entries[0].Last < 20 {
		t.Errorf("the first that waits is %+v", entries[0])
	}
	if stdout, stderr, code := plant.queue("verify"); code != 0 {
		t.Errorf("verify of the files: exit code %d\n%s%s", code, stdout, stderr)
	}
	if again := plant.exported("press"); len(again) != len(entries) {
		t.Errorf("%d entries after looking at %d", len(again), len(entries))
	}

	hub.RefuseConnects("press", 0, 0)
	plant.start()
	last := entries[len(entries)-1].Last
	testkit.Within(t, 30*time.Second, "all that waited has arrived", func() bool { return arrived(t, hub, "press") >= last })
}

// arrived checks that what the hub has of an identity, gaps included, is 1..n without a hole, repeats
// left out, and returns n.
func arrived(t *testing.T, hub *hubsim.Hub, device string) (n uint64) {
	t.Helper()
	for after := uint64(0); ; {
		batch := hub.Messages(after, 1000)
		if len(batch) == 0 {
			return n
		}
		for _, m := range batch {
			after = m.Sequence
			if m.Device != device {
				continue
			}
			parts := strings.Split(m.System["message-id"], "-")
			first, err := strconv.ParseUint(parts[1], 10, 64)
			if err != nil {
				t.Fatalf("message id %s: %v", m.System["message-id"], err)
			}
			final := first
			if gap := m.Properties["gateway-kind"] == "gap"; gap {
				if final, err = strconv.ParseUint(parts[2], 10, 64); err != nil || !strings.Contains(string(m.Body), `"operator"`) {
					t.Fatalf("gap %s: %v\n%s", m.System["message-id"], err, m.Body)
				}
			}
			if first > n+1 {
				t.Fatalf("after %d came %d", n, first)
			}
			n = max(n, final)
		}
	}
}
