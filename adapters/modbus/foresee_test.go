package modbus

import (
	"context"
	"fmt"
	"math"
	"math/bits"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rs/zerolog"
)

// fewest is the least number of requests that read the points under the rules of Plan, over all ways to
// part them, at most 10.
func fewest(d Device, cuts []Cut) int {
	n := len(d.Points)
	best := make([]int, 1<<n)
	for set := 1; set < 1<<n; set++ {
		best[set] = math.MaxInt
		for part := set; part > 0; part = (part - 1) & set {
			if rest := best[set&^part]; rest < best[set]-1 && joinable(d, cuts, part) {
				best[set] = rest + 1
			}
		}
	}
	return best[1<<n-1]
}

// joinable tells whether one request may read a set of points. It is written from the rules, not from
// the planner: MB-45.
func joinable(d Device, cuts []Cut, set int) bool {
	asked, table := map[int]bool{}, d.Points[bits.TrailingZeros(uint(set))].Table
	lowest, highest, last := 1<<16, 0, 0
	for i, p := range d.Points {
		if set>>i&1 == 0 {
			continue
		}
		if p.Table != table {
			return false
		}
		for n := range p.Registers() {
			asked[int(p.Address)+n] = true
		}
		lowest, highest = min(lowest, int(p.Address)), max(highest, int(p.Address)+p.Registers())
		last = max(last, int(p.Address))
	}
	if bits.OnesCount(uint(set)) == 1 {
		return true
	}
	run := 0
	for n := lowest; n < highest; n++ {
		if run++; asked[n] {
			run = 0
		}
		if run > d.Gap {
			return false
		}
	}
	if slices.ContainsFunc(cuts, func(c Cut) bool { return c.Table == table && lowest < c.Address && c.Address <= last }) {
		return false
	}
	most := min(d.MaxRead, MaxReadRegisters)
	if table.Bits() {
		most = MaxReadBits
	} else if d.Even {
		lowest, highest = lowest&^1, (highest+1)&^1
	}
	return highest-lowest <= most
}

// smallPlant is a device with up to 9 points, crowded enough that every rule matters.
func smallPlant(r *rand.Rand) (Device, []Cut) {
	d := Device{Gap: r.IntN(12), MaxRead: 8 + r.IntN(30), Even: r.IntN(4) == 0}
	for range 2 + r.IntN(8) {
		table := []Table{Holding, Holding, Holding, Input, Coil}[r.IntN(5)]
		width := []int{1, 1, 2, 4, 7}[r.IntN(5)]
		if table.Bits() {
			width = 1
		}
		d.Points = append(d.Points, at(table, r.IntN(90), width))
	}
	var cuts []Cut
	for range r.IntN(3) {
		cuts = append(cuts, Cut{Holding, 1 + r.IntN(90)})
	}
	return d, cuts
}

func TestAPlanNeedsHardlyMoreRequestsThanTheBestPossible(t *testing.T) {
	ours, best, worse := 0, 0, 0
	for seed := range uint64(1000) {
		d, cuts := smallPlant(rand.New(rand.NewPCG(seed, 2)))
		n, b := len(Plan(d, d.Points, cuts)), fewest(d, cuts)
		if n < b {
			t.Fatalf("seed %d: %d requests, fewer than the %d that the rules allow", seed, n, b)
		}
		if n > b {
			worse++
		}
		ours, best = ours+n, best+b
	}
	t.Logf("%d requests for 1000 maps, the best possible is %d (%.4f times); %d maps need more than the best", ours, best, float64(ours)/float64(best), worse)
	if float64(ours) > 1.05*float64(best) {
		t.Errorf("%d requests, more than 1.05 times %d", ours, best)
	}
}

func TestAHundredRegistersOneToFourApartTakeTwoRequests(t *testing.T) {
	for first := range 4 {
		d := Device{Gap: 32, MaxRead: MaxReadRegisters}
		for n, address := 0, 1000; n < 100; n++ {
			d.Points = append(d.Points, at(Holding, address, 1))
			address += 1 + (first+n)%4
		}
		if blocks := Plan(d, d.Points, nil); len(blocks) > 2 {
			t.Errorf("%d requests: %v", len(blocks), blocks)
		}
	}
}

func TestForeseenCyclesAreThePeriodsThatMeet(t *testing.T) {
	second := time.Second
	for _, c := range []struct {
		periods []time.Duration
		want    []string
	}{
		{[]time.Duration{second}, []string{"[1s] 1"}},
		{[]time.Duration{second, 5 * second}, []string{"[1s] 0.8", "[1s 5s] 0.2"}},
		{[]time.Duration{2 * second, 3 * second}, []string{"[2s] 0.3333", "[2s 3s] 0.1667", "[3s] 0.1667"}},
		{[]time.Duration{0, second}, []string{"[0s 1s] 0", "[1s] 1"}},
		{[]time.Duration{0}, []string{"[0s] 0"}},
		{[]time.Duration{200 * time.Millisecond, second, 10 * second}, []string{"[200ms] 4", "[200ms 1s] 0.9", "[200ms 1s 10s] 0.1"}},
	} {
		d := Device{Gap: 9}
		for i, period := range c.periods {
			p := at(Holding, i, 1)
			p.Poll = period
			d.Points = append(d.Points, p)
		}
		var got []string
		for _, cycle := range Foresee(Config{}, d) {
			got = append(got, fmt.Sprintf("%v %.4g", cycle.Periods, cycle.PerSecond))
			if len(cycle.Requests) != 1 && len(cycle.Periods) != 2 {
				t.Errorf("%v: %d requests", cycle.Periods, len(cycle.Requests))
			}
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%v: %s", c.periods, diff)
		}
	}
}

// What a device is really asked for at its ticks is what was foreseen.
func TestWhatIsForeseenIsWhatTheDeviceIsAsked(t *testing.T) {
	cfg := Config{Name: "line", Devices: []Device{{Name: "d", Gap: 4, MaxRead: 20}}}
	d := &cfg.Devices[0]
	for i, period := range []int{2, 3, 2, 4, 3, 2, 12} {
		p := at(Holding, 7*i, 1+i%2)
		p.Poll = time.Duration(period) * time.Second
		d.Points = append(d.Points, p)
	}
	foreseen := map[string]float64{}
	for _, c := range Foresee(cfg, *d) {
		foreseen[fmt.Sprint(blocksOf(c.Requests))] += 12 * c.PerSecond
	}
	start := time.Unix(1e9, 0)
	dev := newDevice(cfg, 0, nil)
	dev.start("line", start)
	dev.advance(dev.groups, start.Add(time.Hour)) // past the start, onto the grid
	asked := map[string]float64{}
	for from := dev.due(); ; {
		now := dev.due()
		if now.Sub(from) >= 12*time.Second {
			break
		}
		due := dev.dueGroups(now)
		asked[fmt.Sprint(dev.blocks(due, now))]++
		dev.advance(due, now)
	}
	for key, n := range foreseen {
		foreseen[key] = math.Round(n)
	}
	if diff := cmp.Diff(asked, foreseen); diff != "" {
		t.Error(diff)
	}
}

func blocksOf(requests []Request) (blocks []Block) {
	for _, r := range requests {
		blocks = append(blocks, r.Block)
	}
	return blocks
}

func TestAPlanSaysWhatIsReadInVainAndWhyRequestsStandApart(t *testing.T) {
	d := Device{Gap: 3, MaxRead: 10, Points: []Point{
		at(Holding, 0, 2), at(Holding, 1, 4), at(Holding, 8, 1), at(Holding, 11, 2), at(Holding, 40, 1), at(Coil, 3, 1), at(Coil, 9, 1),
	}}
	var got []string
	for _, r := range Foresee(Config{}, d)[0].Requests {
		got = append(got, fmt.Sprintf("%v: %d in vain; %s", r.Block, r.InVain, r.Apart))
	}
	want := []string{
		"coil 3: 0 in vain; ",
		"coil 9: 0 in vain; 5 bits between them, the gap is 3",
		"holding 0..8: 3 in vain; ",
		"holding 11..12: 0 in vain; 13 registers together, a request reads 10 at most",
		"holding 40: 0 in vain; 27 registers between them, the gap is 3",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// The table of MB-21, less the slave time of 20 ms that it has, on lines of 11 bits a character.
func TestAirtimeIsWhatTheStandardSays(t *testing.T) {
	for _, c := range []struct {
		baud, registers int
		want            time.Duration
	}{
		{1200, 2, 220 * time.Millisecond}, {1200, 125, 2480 * time.Millisecond},
		{9600, 2, 27 * time.Millisecond}, {9600, 20, 69 * time.Millisecond}, {9600, 125, 309 * time.Millisecond},
		{19200, 60, 80 * time.Millisecond}, {38400, 125, 79 * time.Millisecond},
	} {
		line := Config{Framing: RTU, Serial: &Serial{Baud: c.baud, DataBits: 8, Parity: EvenParity, StopBits: 1}}
		got := line.Airtime(Block{Table: Holding, Quantity: c.registers})
		if off := math.Abs(float64(got-c.want)) / float64(c.want); off > 0.03 {
			t.Errorf("%d registers at %d: %v, want about %v", c.registers, c.baud, got, c.want)
		}
	}
	if got := (Config{Framing: RTU}).Airtime(Block{Table: Holding, Quantity: 9}); got != 0 {
		t.Errorf("a TCP link has an airtime of %v", got)
	}
	paused := Config{Framing: RTU, Pause: time.Second, Serial: &Serial{Baud: 9600, DataBits: 8, StopBits: 2}}
	if got := paused.Airtime(Block{Table: Coil, Quantity: 9}); got < time.Second || got > 1030*time.Millisecond {
		t.Errorf("with a pause of 1 s: %v", got)
	}
}

// The load that is foretold is the time that the line is busy, whatever the devices take to answer.
func TestTheForetoldLoadIsThatOfTheLine(t *testing.T) {
	const window = time.Minute
	for _, delay := range []time.Duration{0, 50 * time.Millisecond} {
		synctest.Test(t, func(t *testing.T) {
			f := newField()
			f.framing = RTU
			cfg := Config{
				Name: "line", Framing: RTU, Timeout: time.Second, Serial: &Serial{Baud: 9600, DataBits: 8, Parity: EvenParity, StopBits: 1},
				Devices: []Device{
					{Name: "a", Unit: 1, MaxRead: 125, Points: points("a", Holding, time.Second, span2(100, 20)...)},
					{Name: "b", Unit: 2, MaxRead: 125, Points: points("b", Input, 2*time.Second, span2(100, 60)...)},
					{Name: "c", Unit: 3, MaxRead: 125, Points: points("c", Coil, 500*time.Millisecond, span2(100, 9)...)},
				},
			}
			a := New(cfg, nil, zerolog.Nop())
			a.wires[0].link.open = func(ctx context.Context) (stream, error) { return f.dial(ctx, "", "") }
			silence := 38500 * time.Millisecond / 9600
			onLine := func(r call) time.Duration { // with a silence before the request and one before the answer
				chars := 8 + 5 + map[byte]int{1: (r.quantity + 7) / 8, 3: 2 * r.quantity, 4: 2 * r.quantity}[r.fc]
				return time.Duration(chars)*11*time.Second/9600 + 2*silence
			}
			f.trick = func(_ *peer, r call) bool {
				<-time.After(onLine(r) - silence + delay) // the adapter keeps the first silence
				return false
			}
			ctx, cancel := context.WithCancel(t.Context())
			var running sync.WaitGroup
			running.Go(func() { _ = a.Run(ctx, (&sink{}).accept) })
			pass(4 * time.Second)
			f.set(func(f *field) { f.log = nil })
			before := a.Stats().Link.Busy
			pass(window)
			busy, calls := time.Duration(0), f.calls()
			for _, r := range calls {
				busy += onLine(r)
			}
			counted, really := a.Stats().Link.Busy-before, busy+time.Duration(len(calls))*delay
			if off := counted - really; off.Abs() > really/50 {
				t.Errorf("the statistics say that the link was busy for %v, it was for %v", counted, really)
			}
			cancel()
			running.Wait()
			f.serving.Wait()
			foretold, measured := Load(cfg), busy.Seconds()/window.Seconds()
			if foretold < 0.9*measured || foretold > 1.1*measured || measured < 0.1 {
				t.Errorf("with devices that take %v: foretold %.1f %%, the line is busy for %.1f %%", delay, 100*foretold, 100*measured)
			}
			t.Logf("devices take %v: foretold %.2f %%, measured %.2f %%", delay, 100*foretold, 100*measured)
		})
	}
}
