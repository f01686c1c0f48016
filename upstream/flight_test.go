package upstream

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"iothub-gateway/internal/dial"
)

func TestAcknowledgementsReleaseTheOldestAndNothingElse(t *testing.T) {
	now := time.Now()
	f := newFlight()
	a, alone := f.add(10, now)
	b, joined := f.add(11, now)
	if !alone || joined {
		t.Errorf("the first is told to be alone: %v, the second: %v", alone, joined)
	}
	if f.len() != 2 || !slices.Equal(f.entries(), []uint64{10, 11}) {
		t.Errorf("%d in flight, %v", f.len(), f.entries())
	}
	for _, wrong := range []uint16{b, a - 1, b + 1, 0, 7, dial.FirstOwnID + 100} {
		if seq, err := f.ack(wrong, now); err == nil {
			t.Errorf("packet %d released entry %d out of order", wrong, seq)
		}
	}
	for i, id := range []uint16{a, b} {
		if seq, err := f.ack(id, now); err != nil || seq != uint64(10+i) {
			t.Errorf("packet %d: entry %d, %v", id, seq, err)
		}
	}
	if seq, err := f.ack(b, now); err == nil {
		t.Errorf("a second acknowledgement of packet %d released entry %d", b, seq)
	}
	select {
	case <-f.room:
	default:
		t.Error("the sender is not told that there is room")
	}
}

func TestPacketIDsStayInTheirRangeAndComeAround(t *testing.T) {
	now := time.Now()
	r := rand.New(rand.NewPCG(1, 2))
	f := newFlight()
	var ids []uint16
	var next, released uint64
	for released < 200_000 {
		for range r.IntN(16 - f.len() + 1) {
			next++
			id, _ := f.add(next, now)
			if id < dial.FirstOwnID {
				t.Fatalf("entry %d has packet id %d, which belongs to the library", next, id)
			}
			for _, other := range ids {
				if other == id {
					t.Fatalf("packet id %d is in flight twice", id)
				}
			}
			ids = append(ids, id)
		}
		for range r.IntN(len(ids) + 1) {
			seq, err := f.ack(ids[0], now)
			if err != nil || seq != released+1 {
				t.Fatalf("after %d: packet %d released %d, %v", released, ids[0], seq, err)
			}
			released, ids = seq, ids[1:]
		}
	}
}

func TestTheClockOfAFlightStartsWithItsFirstAndMovesWithEachAcknowledgement(t *testing.T) {
	start := time.Now()
	f := newFlight()
	if _, some := f.waiting(); some {
		t.Error("something waits although nothing was sent")
	}
	first, _ := f.add(1, start)
	f.add(2, start.Add(time.Second))
	if since, some := f.waiting(); !some || !since.Equal(start) {
		t.Errorf("waiting since %v", since.Sub(start))
	}
	if _, err := f.ack(first, start.Add(3*time.Second)); err != nil {
		t.Fatal(err)
	}
	if since, some := f.waiting(); !some || !since.Equal(start.Add(3*time.Second)) {
		t.Errorf("after an acknowledgement: waiting since %v", since.Sub(start))
	}
}

func TestOneEntryAtATimeIsTimedToItsAcknowledgement(t *testing.T) {
	start := time.Now()
	f := newFlight()
	a, _ := f.add(1, start)
	b, _ := f.add(2, start.Add(time.Second))
	if _, n := f.roundTrip(); n != 0 {
		t.Errorf("%d timed before any was acknowledged", n)
	}
	_, _ = f.ack(a, start.Add(3*time.Second))
	_, _ = f.ack(b, start.Add(9*time.Second))
	if took, n := f.roundTrip(); took != 3*time.Second || n != 1 {
		t.Errorf("the first: %v, %d timed", took, n)
	}
	c, _ := f.add(3, start.Add(10*time.Second))
	_, _ = f.ack(c, start.Add(11*time.Second))
	if took, n := f.roundTrip(); took != time.Second || n != 2 {
		t.Errorf("the third: %v, %d timed", took, n)
	}
}

func TestTheWindowHalvesWhileTheHubHoldsMessagesUpAndGrowsByOne(t *testing.T) {
	window := 16
	for _, want := range []int{8, 4, 2, 1, 1} {
		if window = nextWindow(window, 16, slowRound+1); window != want {
			t.Fatalf("window %d, want %d", window, want)
		}
	}
	for want := 2; want <= 16; want++ {
		if window = nextWindow(window, 16, slowRound); window != want {
			t.Fatalf("window %d, want %d", window, want)
		}
	}
	if window = nextWindow(window, 16, 0); window != 16 {
		t.Errorf("window %d, more than the most", window)
	}
}

func TestTheLargestInFlightIsKnownUntilItIsAcknowledged(t *testing.T) {
	now := time.Now()
	f := newFlight()
	var ids []uint16
	for seq, size := range []int{10, 500, 20} {
		id, _ := f.add(uint64(seq+1), now)
		f.weigh(size)
		ids = append(ids, id)
	}
	for i, want := range []int{500, 20, 0} {
		if _, err := f.ack(ids[i], now); err != nil || f.heaviest() != want {
			t.Errorf("after %d: %d bytes, want %d; %v", i+1, f.heaviest(), want, err)
		}
	}
	f.add(4, now)
	if f.weigh(30); f.heaviest() != 30 {
		t.Errorf("%d bytes", f.heaviest())
	}
}
