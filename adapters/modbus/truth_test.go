package modbus_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"

	gateway "iothub-gateway"
	"iothub-gateway/adapters/modbus"
	"iothub-gateway/devsim"
	"iothub-gateway/mapping"
)

// A trial reads devices that misbehave, over many links at once. Every register says where it stands, and which
// turn it is: a value of another place, or of an earlier turn, is wrong.

const (
	pointsPerUnit = 24
	wordsPerPoint = 4
	stride        = 6 // registers from one point to the next; those between do not exist
	hole          = 20 * stride
)

// trial is what is tried, and what became of it.
type trial struct {
	wire   modbus.Config // framing, serial settings and timeout of every link
	links  int
	units  int // of each link
	width  int // points of one read, at most
	reads  int // of all links
	seed   uint64
	faults []devsim.Fault
	// prepare changes an adapter before it runs.
	prepare func(*modbus.Adapter)

	outcome
}

type outcome struct {
	asked, right, refused, unanswered, polled, wrong atomic.Int64

	mu    sync.Mutex // guards the fields below
	first string     // value that was wrong
	fired []int
	stats modbus.LinkStats // of all links
}

// nonce is what a register of a place holds in a turn, of 2^32.
func nonce(link, unit, point int, turn uint32) uint64 {
	return uint64(link)<<56 | uint64(unit)<<48 | uint64(point*stride)<<32 | uint64(turn)
}

func pointName(unit, point int) gateway.PointID {
	return gateway.PointID(fmt.Sprintf("u%d/%d", unit, point))
}

// plant is a link of the trial: points with holes between them, polled once a second while the trial reads them.
func (tr *trial) plant(n int) *mapping.Plant {
	cfg := tr.wire
	cfg.Name, cfg.Address = fmt.Sprintf("link%d", n), "127.0.0.1:0"
	plant := &mapping.Plant{}
	for u := range tr.units {
		d := modbus.Device{Name: fmt.Sprintf("u%d", u), Unit: uint8(u + 1), Gap: 8, Offline: modbus.Offline{After: 5, RetryMin: time.Second, RetryMax: time.Second}}
		for p := range pointsPerUnit {
			d.Points = append(d.Points, modbus.Point{
				ID: pointName(u, p), Table: modbus.Holding, Address: uint16(p * stride), Bit: modbus.WholeRegister,
				Type: modbus.Uint64, Order: "abcd", Scale: 1, Poll: time.Second,
			})
		}
		cfg.Devices = append(cfg.Devices, d)
	}
	plant.Links = []modbus.Config{cfg}
	return plant
}

// run makes the reads.
func (tr *trial) run(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var lines sync.WaitGroup
	for n := range tr.links {
		lines.Go(func() {
			if err := tr.line(ctx, n, (tr.reads+tr.links-1)/tr.links); err != nil {
				t.Error(err)
			}
		})
	}
	done := make(chan struct{})
	go func() { lines.Wait(); close(done) }()
	for progress := time.NewTicker(10 * time.Second); ; {
		select {
		case <-done:
			progress.Stop()
			return
		case <-progress.C:
			t.Logf("%d of %d reads, %d wrong", tr.asked.Load(), tr.reads, tr.wrong.Load())
		}
	}
}

// line simulates one link, and reads it.
func (tr *trial) line(ctx context.Context, n, reads int) error {
	plant := tr.plant(n)
	name := plant.Links[0].Name
	sim, err := devsim.New(devsim.Config{
		Plant: plant, Seed: int64(tr.seed) + int64(n), StrictHoles: true, Faults: devsim.Script{name: tr.faults}, Log: zerolog.Nop(),
	})
	if err != nil {
		return err
	}
	cfg := plant.Links[0]
	cfg.Address = sim.Addr(name)
	if cfg.TLS != nil {
		client, err := sim.Papers().Client()
		if err != nil {
			return err
		}
		cfg.TLS = &modbus.TLS{Client: client}
	}
	a := modbus.New(cfg, nil, zerolog.Nop())
	if tr.prepare != nil {
		tr.prepare(a)
	}
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	var failed [2]error
	w := &witness{tr: tr, sim: sim, link: n, last: map[gateway.PointID]uint32{}}
	running.Go(func() { failed[0] = sim.Run(ctx) })
	running.Go(func() { failed[1] = a.Run(ctx, w.accept) })
	err = w.set(0, pointsPerUnit*tr.units, 0)
	for turn := 1; turn <= reads && err == nil && ctx.Err() == nil; turn++ {
		err = w.read(ctx, a, uint32(turn))
	}
	tr.sum(sim.Fired(name), a.Stats().Link)
	cancel()
	running.Wait()
	return errors.Join(err, failed[0], failed[1])
}

func (o *outcome) sum(fired []int, link modbus.LinkStats) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.fired == nil {
		o.fired = make([]int, len(fired))
	}
	for i, n := range fired {
		o.fired[i] += n
	}
	o.stats.Requests += link.Requests
	o.stats.Timeouts += link.Timeouts
	o.stats.StaleFrames += link.StaleFrames
	o.stats.Connects += link.Connects
}

// witness judges the readings of one link. Only one goroutine calls read, and one accept.
type witness struct {
	tr     *trial
	sim    *devsim.Sim
	link   int
	random *rand.Rand
	turn   atomic.Uint32
	last   map[gateway.PointID]uint32 // the turn of each point's last polled value
}

// set makes count points, all units' one after the other, say that it is this turn.
func (w *witness) set(first, count int, turn uint32) error {
	for i := first; i < first+count; i++ {
		unit, point := i/pointsPerUnit, i%pointsPerUnit
		if err := w.sim.Set(pointName(unit, point), gateway.UintValue(nonce(w.link, unit, point, turn))); err != nil {
			return err
		}
	}
	return nil
}

// read takes a few neighbours of one unit, whose values are new this turn.
func (w *witness) read(ctx context.Context, a *modbus.Adapter, turn uint32) error {
	if w.random == nil {
		w.random = rand.New(rand.NewPCG(w.tr.seed, uint64(w.link)))
	}
	unit, count := w.random.IntN(w.tr.units), 1+w.random.IntN(w.tr.width)
	first := w.random.IntN(pointsPerUnit - count + 1)
	w.turn.Store(turn)
	if err := w.set(unit*pointsPerUnit+first, count, turn); err != nil {
		return err
	}
	var ids []gateway.PointID
	for i := range count {
		ids = append(ids, pointName(unit, first+i))
	}
	w.tr.asked.Add(1)
	samples, err := a.Read(ctx, ids)
	if err != nil {
		return err
	}
	for i, s := range samples {
		w.judge(s, unit, first+i, turn, turn)
	}
	return nil
}

// judge counts a reading of a place, which must be of the turns from since to until.
func (w *witness) judge(s gateway.Sample, unit, point int, since, until uint32) (turn uint32) {
	var refused *gateway.Refusal
	v, ok := s.Value.Uint()
	switch turn = uint32(v); {
	case errors.As(s.Err, &refused):
		w.tr.refused.Add(1)
	case s.Err != nil:
		w.tr.unanswered.Add(1)
	case ok && v == nonce(w.link, unit, point, turn) && turn >= since && turn <= until:
		w.tr.right.Add(1)
		return turn
	default:
		w.tr.wrong.Add(1)
		w.tr.note(fmt.Sprintf("link %d unit %d point %d, turns %d to %d: %v (%#x)", w.link, unit, point, since, until, s.Value, v))
	}
	return since
}

func (o *outcome) note(wrong string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.first == "" {
		o.first = wrong
	}
}

// accept judges what was polled: it may not be older than what was polled before, nor of a turn that was not yet.
func (w *witness) accept(_ context.Context, samples []gateway.Sample) error {
	for _, s := range samples {
		var unit, point int
		if _, err := fmt.Sscanf(string(s.Point), "u%d/%d", &unit, &point); err != nil {
			return err
		}
		w.last[s.Point] = w.judge(s, unit, point, w.last[s.Point], w.turn.Load())
		w.tr.polled.Add(1)
	}
	return nil
}

// String is the trial's outcome in a line.
func (tr *trial) String() string {
	var faults []string
	for i, f := range tr.faults {
		faults = append(faults, fmt.Sprintf("%s %d", f.Do, tr.fired[i]))
	}
	return fmt.Sprintf("%d reads and %d polled readings: %d values right, %d wrong; %d refused, %d without an answer; %d requests, %d timeouts, %d late or foreign frames dropped, %d connections; faults: %s",
		tr.asked.Load(), tr.polled.Load(), tr.right.Load(), tr.wrong.Load(), tr.refused.Load(), tr.unanswered.Load(),
		tr.stats.Requests, tr.stats.Timeouts, tr.stats.StaleFrames, tr.stats.Connects, strings.Join(faults, ", "))
}

// misdeeds is the fault script on a wire with this timeout, each as likely as chance. On a line late answers come up to
// slack before the end of the quarantine: so much later than it was sent may a request be read, and an answer be sent,
// by a machine under load.
func misdeeds(wire modbus.Config, chance float64, slack time.Duration) []devsim.Fault {
	timeout, ms := wire.Timeout, time.Millisecond
	faults := []devsim.Fault{
		{Do: devsim.Exception, Addresses: &[2]uint16{hole, hole + wordsPerPoint - 1}}, // forbidden
		{Do: devsim.Exception, Code: 6, Chance: chance},
		{Do: devsim.Silent, Chance: chance},
		{Do: devsim.Late, Chance: 2 * chance, After: timeout, Until: 2*timeout - slack},
		{Do: devsim.Late, Chance: chance, After: timeout / 2, Until: timeout + timeout/2},
		{Do: devsim.WrongUnit, Chance: chance},
		{Do: devsim.Short, Chance: chance, Bytes: 3},
		{Do: devsim.Garbage, Chance: chance, Bytes: 13},
		{Do: devsim.Noise, Chance: chance, Bytes: 5},
		{Do: devsim.Corrupt, Chance: chance},
		{Do: devsim.Split, Chance: chance, Bytes: 4, After: ms},
		{Do: devsim.Echo, Chance: chance},
		{Do: devsim.Hangup, Chance: chance / 4},
	}
	if wire.Framing == modbus.MBAP {
		faults = append(faults, devsim.Fault{Do: devsim.WrongID, Chance: chance})
	}
	if wire.Serial == nil { // the second of a paced line may be as late as the simulator is held up
		faults = append(faults, devsim.Fault{Do: devsim.Twice, Chance: chance})
	}
	return faults
}

// The wires of the trials. On a line a timeout costs twice its time, and must be long beside the delays of a busy machine.
const lineTimeout = 400 * time.Millisecond

func tcp() modbus.Config { return modbus.Config{Framing: modbus.MBAP, Timeout: 60 * time.Millisecond} }

func rtuOverTCP() modbus.Config {
	return modbus.Config{Framing: modbus.RTU, Timeout: lineTimeout}
}

func rtuOnPTY() modbus.Config {
	return modbus.Config{Framing: modbus.RTU, Timeout: lineTimeout, Serial: &modbus.Serial{Baud: 115200, DataBits: 8, StopBits: 1}}
}

func secured() modbus.Config {
	return modbus.Config{Framing: modbus.MBAP, Timeout: 100 * time.Millisecond, TLS: &modbus.TLS{Certificate: "file:asked-for.pem"}}
}

func asciiOverTCP() modbus.Config {
	return modbus.Config{Framing: modbus.ASCII, Timeout: lineTimeout}
}

// Each value carries its address and the turn of its read. Whatever devices do to their answers, short of sending the
// right bytes so late that nothing can tell, no value is ever another one's or an older one.
func TestNoValueIsEverAnothersOrAnOlderOne(t *testing.T) {
	atOnce(t, map[string]*trial{
		"TCP":            {wire: tcp(), links: 16, reads: 3000},
		"TLS":            {wire: secured(), links: 4, reads: 400},
		"RTU over TCP":   {wire: rtuOverTCP(), links: 32, reads: 640},
		"ASCII over TCP": {wire: asciiOverTCP(), links: 16, reads: 320},
		"RTU on a pty":   {wire: rtuOnPTY(), links: 8, reads: 160},
	}, func(t *testing.T, tr *trial) {
		tr.seed, tr.units, tr.width, tr.faults = 1, 4, 3, misdeeds(tr.wire, 0.004, tr.wire.Timeout/2)
		tr.run(t)
		t.Log(tr)
		if tr.wrong.Load() > 0 {
			t.Error(tr.first)
		}
		if n := tr.right.Load(); n < int64(tr.reads) || tr.stats.StaleFrames == 0 || slices.Max(tr.fired[2:]) == 0 {
			t.Errorf("too little was tried: %v", tr)
		}
	})
}

// The same, with a transport that takes what looks like an answer: the trial must see it.
func TestATransportThatTakesAnyAnswerIsFoundOut(t *testing.T) {
	atOnce(t, map[string]*trial{
		"TCP":          {wire: tcp(), links: 8, reads: 400},
		"RTU over TCP": {wire: rtuOverTCP(), links: 8, reads: 240},
		"RTU on a pty": {wire: rtuOnPTY(), links: 8, reads: 160},
	}, func(t *testing.T, tr *trial) {
		tr.seed, tr.units, tr.width, tr.prepare = 1, 1, 1, (*modbus.Adapter).Gullible
		tr.faults = []devsim.Fault{{Do: devsim.Late, Chance: 0.15, After: tr.wire.Timeout, Until: 2 * tr.wire.Timeout}}
		tr.run(t)
		if tr.wrong.Load() == 0 {
			t.Errorf("nobody noticed: %v", tr)
		}
		t.Logf("%d of %d values wrong, such as %s", tr.wrong.Load(), tr.wrong.Load()+tr.right.Load(), tr.first)
	})
}

// atOnce makes trials side by side, however few processors there are: they wait most of the time.
func atOnce(t *testing.T, trials map[string]*trial, try func(*testing.T, *trial)) {
	var running sync.WaitGroup
	defer running.Wait()
	for name, tr := range trials {
		running.Go(func() { t.Run(name, func(t *testing.T) { try(t, tr) }) })
	}
}
