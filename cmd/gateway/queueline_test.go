package main

import (
	"bytes"
	"testing"
	"time"

	"iothub-gateway/internal/control"
)

func TestTheQueuesTroubleIsOneSentence(t *testing.T) {
	for want, q := range map[string]control.QueueStatus{
		"":                                  {State: queueWorking, Reason: "of before"},
		"the queue is full: raise max_size": {State: "full", Reason: "raise max_size"},
		"the queue is full: raise max_size; set aside: a.db, b.db": {State: "full", Reason: "raise max_size", Aside: []string{"a.db", "b.db"}},
		"the queue is degraded: a.db was set aside":                {State: queueDegraded, Reason: "a.db was set aside", Aside: []string{"a.db"}},
		"the queue is unavailable":                                 {State: queueUnavailable},
	} {
		if got := queueTrouble(q); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestOnlyAClockThatIsNotRightIsTalkedAbout(t *testing.T) {
	for clock, want := range map[string]bool{
		"": false, "synchronised": false, "trusted": false, "cannot be asked": false, "was synchronised, and runs on": false,
		"not synchronised": true, clockBehind: true,
	} {
		if got := clockDoubt(control.QueueStatus{Clock: clock}) != ""; got != want {
			t.Errorf("%q: %t", clock, got)
		}
	}
}

func TestRatesAndLongTextsFitATable(t *testing.T) {
	for want, rate := range map[string]float64{"0": 0, "0.05": 0.05, "12.34": 12.345, "123": 123} {
		if got := perSecond(&rate); got != want {
			t.Errorf("%g: %s, want %s", rate, got, want)
		}
	}
	if perSecond(nil) != "-" {
		t.Errorf("an unknown rate is %s", perSecond(nil))
	}
	if got := clip("äöüß", 3); got != "äö…" {
		t.Errorf("%q", got)
	}
	if got := clip("äöü", 3); got != "äöü" {
		t.Errorf("%q", got)
	}
}

func TestProgressIsForPeopleOnly(t *testing.T) {
	var out bytes.Buffer
	p := newProgress(&out, "read")
	p.next = time.Time{}
	for n := range int64(1000) {
		p.show(n, 1000)
	}
	p.end()
	if out.Len() > 0 {
		t.Errorf("a file gets %q", &out)
	}
	p.w, p.next = &out, time.Time{}
	p.show(256, 1000)
	if got := out.String(); got != "\r256 of 1,000 read (25 %) " {
		t.Errorf("a terminal gets %q", got)
	}
	p.end()
}
