package modbus

import (
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	gateway "iothub-gateway"
	"iothub-gateway/internal/testkit"
)

// onEveryWire runs a test on Modbus TCP, RTU over TCP and RTU on a pty: the rows of MB-118 that are about requests
// rather than about the bytes of an answer.
func onEveryWire(t *testing.T, test func(t *testing.T, tr transport)) {
	for _, tr := range []transport{{"TCP", MBAP, false}, lines()[0], lines()[2]} {
		t.Run(tr.name, func(t *testing.T) {
			t.Parallel()
			test(t, tr)
		})
	}
}

func TestOneDeadUnitOfTwoLeavesTheOtherItsReadings(t *testing.T) {
	onEveryWire(t, func(t *testing.T, tr transport) {
		f := newField()
		f.mute[2] = true
		r := tr.start(t, f, Config{Timeout: lineTimeout / 2, Devices: units(2, 20*time.Millisecond, offline(2, time.Minute, time.Minute))})
		testkit.Eventually(t, "the dead unit to be offline", func() bool { return r.Stats().Devices[1].State == Down })
		n := len(r.got.of("u1/10"))
		testkit.Eventually(t, "many readings of the other", func() bool { return len(r.got.of("u1/10")) > n+20 })
		if got := r.got.of("u1/10"); goods(got) != len(got) || goods(r.got.of("u2/20")) != 0 {
			t.Errorf("%d of %d readings are good", goods(got), len(got))
		}
	})
}

func TestEveryExceptionIsNamedAndTheNextRequestIsRight(t *testing.T) {
	onEveryWire(t, func(t *testing.T, tr transport) {
		codes := []byte{1, 2, 3, 4, acknowledge, busy, 7, 8, 99}
		var n atomic.Int32
		r := badLine(t, tr, int32(len(codes)), func(c *peer, r call) { c.send(r.exception(codes[n.Add(1)-1])) })
		for _, code := range codes {
			var no *gateway.Refusal
			if _, err := readOne(t, r, "d/100"); !errors.As(err, &no) || no.Name != exceptionName(code) {
				t.Errorf("exception %d: %v", code, err)
			}
		}
		if v, err := readOne(t, r, "d/101"); err != nil || v != 101 || r.field.conns() != 1 {
			t.Errorf("then %d, %v, %d connections", v, err, r.field.conns())
		}
	})
}

func TestAForbiddenRegisterInABlockIsFoundByBisection(t *testing.T) {
	onEveryWire(t, func(t *testing.T, tr transport) {
		f := newField()
		f.holes[spot{1, Holding, 13}] = true
		r := tr.start(t, f, Config{Devices: []Device{{Name: "d", Unit: 1, Points: points("d", Holding, 50*time.Millisecond, span2(10, 8)...)}}})
		testkit.Eventually(t, "good readings of all but one", func() bool {
			return !slices.ContainsFunc(r.cfg.Devices[0].Points, func(p Point) bool { return p.Address != 13 && goods(r.got.of(p.ID)) < 5 })
		})
		bad := r.got.of("d/13")
		var no *gateway.Refusal
		if len(bad) == 0 || goods(bad) > 0 || !errors.As(bad[0].Err, &no) || no.Name != exceptionName(illegalAddress) {
			t.Errorf("the forbidden one: %v", bad)
		}
	})
}

func TestACouplersWatchdogIsKeptQuietBetweenPolls(t *testing.T) {
	onEveryWire(t, func(t *testing.T, tr transport) {
		r := tr.start(t, newField(), Config{KeepAlive: 30 * time.Millisecond, Devices: []Device{{Name: "d", Unit: 1, Points: points("d", Holding, time.Hour, 10)}}})
		testkit.Eventually(t, "requests without a poll", func() bool { return len(r.field.calls()) > 10 })
		if s := r.Stats(); s.Devices[0].Polls > 1 || s.Link.Timeouts > 0 {
			t.Errorf("%+v", s)
		}
	})
}

func TestNoRequestPassesTheEndOfTheAddressSpace(t *testing.T) {
	onEveryWire(t, func(t *testing.T, tr transport) {
		p := points("d", Holding, time.Hour, 65535, 65534)
		wide := at(Holding, 65535, 2)
		wide.ID, wide.Scale, wide.Order, wide.Poll = "d/wide", 1, "abcd", time.Hour
		r := tr.start(t, newField(), Config{Devices: []Device{{Name: "d", Unit: 1, Points: append(p, wide)}}})
		for _, want := range p {
			if v, err := readOne(t, r, want.ID); err != nil || v != uint64(want.Address) {
				t.Errorf("%s: %d, %v", want.ID, v, err)
			}
		}
		if v, err := readOne(t, r, "d/wide"); err == nil {
			t.Errorf("behind the end stands %d", v)
		}
		for _, c := range r.field.calls() {
			if c.address+c.quantity > 1<<16 {
				t.Errorf("asked for %v", c)
			}
		}
	})
}

func TestRunEndsAtOnceDuringARequestOnEveryWire(t *testing.T) {
	onEveryWire(t, func(t *testing.T, tr transport) {
		f := newField()
		f.mute[1] = true
		r := tr.start(t, f, Config{Timeout: 30 * time.Second, Devices: units(1, time.Millisecond, Offline{})})
		testkit.Eventually(t, "a request", func() bool { return len(f.calls()) > 0 })
		reading := make(chan error)
		go func() { _, err := r.Read(t.Context(), []gateway.PointID{"u1/10"}); reading <- err }()
		began := time.Now()
		r.stop()
		if d := time.Since(began); d > time.Second {
			t.Errorf("Run took %v to end", d)
		}
		if err := <-reading; !errors.Is(err, gateway.ErrNoAnswer) {
			t.Errorf("the read that waited: %v", err)
		}
	})
}
