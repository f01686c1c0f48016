package e2e

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/plgd-dev/go-coap/v3/message"
	"github.com/plgd-dev/go-coap/v3/message/codes"
	"github.com/plgd-dev/go-coap/v3/options"
	"github.com/plgd-dev/go-coap/v3/udp"
	"github.com/plgd-dev/go-coap/v3/udp/client"

	"iothub-gateway/hubsim"
	"iothub-gateway/internal/testkit"
)

func TestKillingTheProcessUnderModbusAndCoAPLoadLosesNothing(t *testing.T) {
	killUnderLoad(t, cyclesOf(6), uint64(time.Now().UnixNano()))
}

// killing says how often, and after how long at most, the gateway is killed.
type killing struct {
	again  func(cycle int) bool
	spell  int           // so many cycles are of the same spell
	most   time.Duration // of a cycle
	outage time.Duration // of a cycle while the hub is away
}

func cyclesOf(n int) killing {
	spell := min(10, max(1, n/len(spells())))
	return killing{
		again: func(cycle int) bool { return cycle < n }, spell: spell,
		most: 400 * time.Millisecond, outage: 8 * time.Second / time.Duration(spell),
	}
}

// spell is some cycles with the same buffer section of the mapping.
type spell struct {
	buffer string
	outage bool // the hub is away, and reports are large, so that the queue gets full
}

// spells come one after the other. Entries that were packed, or not, may be in flight when they change.
func spells() []spell {
	return []spell{
		{},
		{buffer: "buffer: { batch: { max_size: 4KiB, max_wait: 50ms } }\n"},
		{buffer: "buffer: { max_size: 1MiB, when_full: drop-oldest }\n", outage: true},
		{},
		{buffer: "buffer: { batch: { max_size: 16KiB, max_wait: 0s } }\n"},
		{buffer: "buffer: { max_size: 2MiB, lane_max_size: 1MiB, batch: { max_size: 16KiB } }\n", outage: true},
	}
}

// killUnderLoad kills the gateway at random moments while a PLC is polled every 5 ms and four devices
// report over CoAP, each as fast as it is answered. Everything a device saw answered must be at the hub,
// or marked by a gap, and each lane without a hole.
func killUnderLoad(t *testing.T, k killing, seed uint64) {
	t.Helper()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	hub := startHub(t)
	l := loadedPlant(t, hub)
	o := newOracle(t, hub)
	stop := keepReporting(t, l.probes)
	cycle := 0
	for ; k.again(cycle); cycle++ {
		s := spells()[cycle/k.spell%len(spells())]
		l.begin(s)
		hub.DelayAcks("", time.Duration(random.IntN(4))*50*time.Millisecond) // the queue grows meanwhile
		gateway := l.start()
		most := k.outage
		if !s.outage {
			most = k.most
			if random.IntN(4) > 0 { // else the moment may come before the gateway does anything
				before := hub.Received()
				testkit.Within(t, 20*time.Second, "messages arrive after the restart", func() bool { return hub.Received() > before })
			}
		}
		o.until(time.Now().Add(time.Duration(random.Int64N(int64(most)))))
		gateway.kill()
		if (cycle+1)%k.spell == 0 {
			t.Logf("%d kills, %d messages", cycle+1, hub.Received())
		}
	}
	hub.DelayAcks("", 0)
	l.begin(spell{})
	gateway := l.start()
	stop()
	drained(t, l.plant)
	gateway.stop()
	verdict(t, o.judgement(), l.probes, cycle)
}

// load is the PLC's plant and four probes that report over CoAP.
type load struct {
	*plant
	probes []*probe
	rest   string // of the mapping, but for the buffer section
}

func loadedPlant(t *testing.T, hub *hubsim.Hub) *load {
	t.Helper()
	port := freePort(t)
	mapping := fmt.Sprintf("listeners: { field: { coap: \"127.0.0.1:%s\", allow: [127.0.0.1], limits: { rate: 1000 } } }\n", port)
	mapping += startPLC(t).devices("5ms")
	identities := slices.Clone(plcIdentities)
	l := &load{}
	for i := range 4 {
		p := &probe{name: fmt.Sprintf("probe-%d", i+1), address: "127.0.0.1:" + port}
		mapping += fmt.Sprintf("  %s: { identity: { device: %[1]s, sas_key: \"file:keys/%[1]s\" }, "+
			"coap: { listener: field, from: 127.0.0.1, path: %s }, points: { n: { senml: n }, pad: { senml: pad } } }\n", p.name, p.path())
		l.probes, identities = append(l.probes, p), append(identities, p.name)
	}
	l.plant = newPlant(t, hub, mapping, identities...)
	text, err := os.ReadFile(l.mapping)
	if err != nil {
		t.Fatal(err)
	}
	l.rest = string(text)
	return l
}

// begin makes the next start of the gateway one of s.
func (l *load) begin(s spell) {
	l.t.Helper()
	l.write("mapping.yaml", strings.Replace(l.rest, "listeners:", s.buffer+"listeners:", 1))
	pad, refused := 0, 0
	if s.outage {
		pad, refused = 900, 1<<30
	}
	l.hub.RefuseConnects("", 3, refused) // 3: the server is unavailable
	for _, p := range l.probes {
		p.pad.Store(int64(pad))
	}
}

// probe is a device that numbers its reports. It goes on to the next when it has seen 2.04 for one, and
// until then sends that again.
type probe struct {
	name, address string
	pad           atomic.Int64 // how much longer its reports are than they need to be
	answered      int          // reports 1..answered
	refused       int          // answers that were not 2.04
}

func (p *probe) path() string { return "/v1/" + p.name }

// run reports until ctx ends.
func (p *probe) run(ctx context.Context) {
	var conn *client.Conn
	defer func() {
		if conn != nil {
			_ = conn.Close()
		}
	}()
	for ctx.Err() == nil {
		if conn == nil || conn.Context().Err() != nil {
			var err error
			if conn, err = udp.Dial(p.address, options.WithErrors(func(error) {})); err != nil {
				conn = nil
			}
		}
		wait := 2 * time.Millisecond
		if conn == nil || !p.post(ctx, conn) {
			wait = 20 * time.Millisecond
		}
		pause := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-pause.C:
		}
	}
}

// post sends the next report and tells whether it was answered.
func (p *probe) post(ctx context.Context, conn *client.Conn) bool {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	body := fmt.Sprintf(`[{"n":"n","v":%d},{"n":"pad","vs":"%s"}]`, p.answered+1, strings.Repeat("x", int(p.pad.Load())))
	response, err := conn.Post(ctx, p.path(), message.AppSenmlJSON, bytes.NewReader([]byte(body)))
	if err != nil {
		_ = conn.Close()
		return false
	}
	if response.Code() != codes.Changed {
		p.refused++
		return false
	}
	p.answered++
	return true
}

// keepReporting runs the probes until stop is called, which waits for their end.
func keepReporting(t *testing.T, probes []*probe) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	for _, p := range probes {
		running.Go(func() { p.run(ctx) })
	}
	stop = func() {
		cancel()
		running.Wait()
	}
	t.Cleanup(stop)
	return stop
}

// verdict holds what is at the hub against what the probes saw answered.
func verdict(t *testing.T, lanes map[string]lane, probes []*probe, kills int) {
	t.Helper()
	entries, repeated, packs, marked := 0, 0, 0, uint64(0)
	for id, l := range lanes {
		entries, repeated, packs, marked = entries+int(l.newest), repeated+l.repeated, packs+l.packs, marked+l.marked
		if most := kills * 4 * window; l.repeated > most {
			t.Errorf("%s: %d repeats in %d kills, more than %d", id, l.repeated, kills, most)
		}
	}
	answered, lost, twice, refused := 0, 0, 0, 0
	for _, p := range probes {
		l := lanes[p.name+"/"]
		there := l.reports
		if l.report > p.answered { // stored, and killed before the answer
			there--
		}
		if over := p.answered - there - int(l.marked); over > 0 {
			t.Errorf("%s: %d reports were answered and are neither at the hub nor marked", p.name, over)
			lost += over
		}
		if p.answered < kills {
			t.Errorf("%s: only %d reports were answered over %d kills", p.name, p.answered, kills)
		}
		answered, twice, refused = answered+p.answered, twice+l.twice, refused+p.refused
	}
	t.Logf("proof: kill -9 under load: %d kills, %d entries, %d marked by gaps, %d packs, %d reports answered, %d lost; %d messages repeated, %d reports stored twice because the answer was lost, %d answers not 2.04",
		kills, entries, marked, packs, answered, lost, repeated, twice, refused)
	if kills >= 60 && (packs == 0 || marked == 0) {
		t.Error("nothing was packed or nothing dropped: the proof proves too little")
	}
}
