package buffer

import (
	"context"
	"fmt"
	"path/filepath"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/bbolt"

	gateway "iothub-gateway"
)

// machine is a machine whose clock is an hour slow until it is set.
type machine struct {
	t      *testing.T
	dir    string
	boot   uint32
	booted time.Time
	good   atomic.Bool
	q      *Queue
	stop   func()
}

const slow = -time.Hour

func (m *machine) now() (time.Time, bool) {
	if m.good.Load() {
		return time.Now(), true
	}
	return time.Now().Add(slow), false
}

// start opens the queue; Run is stopped while the test changes m.
func (m *machine) start() {
	m.t.Helper()
	this := boot{m.boot, func() time.Duration { return time.Since(m.booted) }}
	q, err := Open(Config{Dir: m.dir, Clock: m.now, boot: this})
	if err != nil {
		m.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- q.Run(ctx) }()
	m.q, m.stop = q, func() {
		cancel()
		if err := <-ended; err != nil {
			m.t.Error(err)
		}
		if err := q.Close(); err != nil {
			m.t.Error(err)
		}
	}
}

// put puts entry n, which is created now by the machine's clock, and returns the true time.
func (m *machine) put(n int) time.Time {
	m.t.Helper()
	created, _ := m.now()
	err := m.q.Put(context.Background(), gateway.Telemetry{Identity: "a", Body: fmt.Appendf(nil, `{"n":%d}`, n), Created: created})
	if err != nil {
		m.t.Fatal(err)
	}
	return time.Now()
}

// read returns the entry behind after: its time and what it says of it.
func (m *machine) read(after uint64) (time.Time, string) {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	entries, err := m.q.Lane("a").Next(ctx, after, 1)
	if err != nil {
		m.t.Fatal(err)
	}
	word := ""
	for _, p := range entries[0].Telemetry.Properties {
		if p.Name == propertyClock {
			word = p.Value
		}
	}
	return entries[0].Telemetry.Created, word
}

func (m *machine) expect(after uint64, at time.Time, word string) {
	m.t.Helper()
	if got, said := m.read(after); !got.Equal(at) || said != word {
		m.t.Errorf("entry %d is of %v %q, want %v %q", after+1, got, said, at.UTC(), word)
	}
}

// elapse lets time pass in a synctest bubble.
func elapse(d time.Duration) { <-time.After(d) }

func newMachine(t *testing.T) *machine {
	return &machine{t: t, dir: filepath.Join(t.TempDir(), "queue"), boot: 7, booted: time.Now().Add(-2 * time.Hour)}
}

func TestTimesOfABadClockAreCorrectedOnceItIsGood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine(t)
		m.start()
		var at []time.Time
		for n := range 4 {
			at = append(at, m.put(n+1))
			elapse(time.Minute)
		}
		m.expect(0, at[0].Add(slow), unsynchronised)
		synctest.Wait()
		m.good.Store(true)
		elapse(2 * time.Second)
		at = append(at, m.put(5))
		for range 3 {
			m.expect(0, at[0].Add(slow), unsynchronised) // a repeat has the same bytes
			m.expect(1, at[1], corrected)
			m.expect(3, at[3], corrected)
			m.expect(4, at[4], "")
			m.stop()
			m.start()
		}
		m.stop()
	})
}

func TestTimesOfABootThatNeverKnewTheTimeStayAndSaySo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine(t)
		m.start()
		first := m.put(1)
		m.stop()
		m.boot, m.booted = 8, time.Now().Add(-90*time.Minute)
		m.start()
		second := m.put(2)
		synctest.Wait()
		m.good.Store(true)
		elapse(2 * time.Second)
		m.expect(0, first.Add(slow), unsynchronised)
		m.expect(1, second, corrected)
		m.stop()
	})
}

// The process ends before the clock is good and begins again when it is: what may have been sent keeps
// its stamp, the others do not.
func TestAProcessThatStartsWithAGoodClockCorrectsThoseOfTheOneBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine(t)
		m.start()
		var at []time.Time
		for n := range MaxInFlight + 2 {
			at = append(at, m.put(n+1))
		}
		m.stop()
		m.good.Store(true)
		m.start()
		m.expect(0, at[0].Add(slow), unsynchronised)
		m.expect(MaxInFlight-1, at[MaxInFlight-1].Add(slow), unsynchronised)
		m.expect(MaxInFlight, at[MaxInFlight], corrected)
		m.stop()
	})
}

func TestTheDevicesOwnTimeIsNotCorrected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine(t)
		m.start()
		at := time.Now() // an hour ahead of the gateway's clock
		if err := m.q.Put(t.Context(), gateway.Telemetry{Identity: "a", Body: []byte(`{}`), Created: at}); err != nil {
			t.Fatal(err)
		}
		m.expect(0, at, "")
		m.stop()
	})
}

func TestCorrectionsAreStoredAsTheyAre(t *testing.T) {
	for _, k := range []correction{
		{epoch: 3},
		{epoch: 9, known: true, zero: time.Unix(0, 12345).UTC(), handed: map[uint32]uint64{}},
		{epoch: 9, known: true, zero: time.Unix(1e9, 1).UTC(), handed: map[uint32]uint64{1: 2, 7: 1 << 60}},
	} {
		got, ok := parseCorrection(k.value(1).content)
		if !ok || got.epoch != k.epoch || got.known != k.known || !got.zero.Equal(k.zero) || fmt.Sprint(got.handed) != fmt.Sprint(k.handed) {
			t.Errorf("%+v came back as %+v", k, got)
		}
	}
	for _, content := range [][]byte{nil, {1}, make([]byte, 5), make([]byte, 23)} {
		if _, ok := parseCorrection(content); ok {
			t.Errorf("%x was taken", content)
		}
	}
}

func TestTheFileRemembersNoMoreBootsThanTheMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine(t)
		for n := range 2 * maxBoots {
			m.boot = uint32(n + 1)
			m.start()
			m.put(n + 1)
			m.stop()
		}
		m.start()
		defer m.stop()
		stored := 0
		err := m.q.places.newest().view(t.Context(), func(tx *bbolt.Tx) error {
			return eachValue(tx, bucketClock, 4, func(_, _ []byte) error {
				stored++
				return nil
			})
		})
		if err != nil || stored != maxBoots {
			t.Errorf("%d boots are stored, %v", stored, err)
		}
	})
}
