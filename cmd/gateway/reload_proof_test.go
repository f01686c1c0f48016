//go:build proof

package main

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"iothub-gateway/internal/testkit"
)

// SEED= chooses the mappings, RELOADS= how many of them there are. Each is any set of devices, each with or without an
// extra point, another timeout and other properties; a quarter of them has a mistake. Whatever a reload says it left
// alone has kept its connection, and in the end every lane is 1..n without a hole or a repeat.
func TestProofReloadsTouchOnlyWhatChanged(t *testing.T) {
	seed := testkit.Seed(t)
	t.Logf("SEED=%d", seed)
	random := rand.New(rand.NewPCG(seed, 1))
	names := []string{"a", "b", "c", "d", "e", "f"}
	w := newWorks(t, names...)
	some := func() (devices []string) {
		for _, name := range names {
			if random.IntN(4) == 0 {
				continue
			}
			text := w.at(name, []string{"", "extra: { at: holding 30, type: int16 }"}[random.IntN(2)])
			if random.IntN(3) == 0 {
				text = strings.Replace(text, "device: "+name+",", fmt.Sprintf("device: %s, properties: { line: n%d },", name, random.IntN(3)), 1)
			}
			if random.IntN(3) == 0 {
				text = strings.Replace(text, "timeout: 20s }", "timeout: 19s }", 1)
			}
			devices = append(devices, text)
		}
		random.Shuffle(len(devices), func(i, j int) { devices[i], devices[j] = devices[j], devices[i] })
		if len(devices) == 0 {
			return []string{w.at("a", "")}
		}
		return devices
	}
	w.write(some()...)
	stop := w.run()
	defer stop()
	reloads, refused, kept, slowest := int(testkit.Number(t, "RELOADS", 300)), 0, 0, time.Duration(0)
	for i := range reloads {
		w.write(some()...)
		bad := random.IntN(4) == 0
		if bad {
			w.edit("type: uint32", "type: uint33")
		}
		before := map[string]uint64{}
		for _, l := range w.service.pool.Stats() {
			before[string(l.Identity)] = l.Connects
		}
		began := time.Now()
		r, err := w.service.Reload(t.Context(), false)
		slowest = max(slowest, time.Since(began))
		if err != nil || bad != (len(r.Refused) > 0) {
			t.Fatalf("reload %d: %v, %v", i, err, r.Refused)
		}
		touched := map[string]bool{}
		if bad {
			refused++
		} else {
			touched = namesOf(r.Changes.Identities, true)
		}
		for _, l := range w.service.pool.Stats() {
			id := string(l.Identity)
			if touched[id] {
				continue
			}
			kept++
			// One that had only joined may connect for the first time meanwhile.
			if l.Connects != max(before[id], 1) && l.Connects != before[id] {
				t.Errorf("reload %d: %s was left alone and connected %d times, before %d", i, id, l.Connects, before[id])
			}
		}
		if i%50 == 49 {
			w.judge()
			t.Logf("%d reloads, %d messages", i+1, w.hub.Received())
		}
		sleep(t.Context(), time.Duration(random.IntN(200))*time.Millisecond) // so that every part of a connection's life meets a reload
	}
	var all []string
	for _, name := range names {
		all = append(all, w.at(name, ""))
	}
	w.write(all...)
	if r, code := w.reload(); code != exitOK {
		t.Fatalf("%v", r.Refused)
	}
	w.goesOn(names...)
	stop()
	lanes := w.judge()
	total := uint64(0)
	for id, counts := range w.service.queue.Stats().Lanes {
		if counts.Entries > 0 || lanes[id] != counts.Put {
			t.Errorf("%s: %d of %d came, %d wait", id, lanes[id], counts.Put, counts.Entries)
		}
		total += counts.Put
	}
	t.Logf("SEED=%d: %d reloads, %d of them refused, the slowest took %v; %d messages, none missing, none repeated; %d times an identity that was left alone kept its connection",
		seed, reloads, refused, slowest.Round(time.Millisecond), total, kept)
}
