package main

import (
	"bytes"
	"strings"
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

func TestWhatASentenceOfTheQueueCountsIsWhatItSays(t *testing.T) {
	q := control.QueueStatus{Dir: "state/queue", Entries: 1234, Bytes: 2048, Files: 1, Size: 4096, Put: 5000, Acked: 3766, Dropped: 12}
	line := "queue state/queue: 1,234 waiting (2.0 KiB, in 1 file of 4.0 KiB); 5,000 accepted since it was made, 3,766 of them delivered or told as a gap"
	if got := queueLine(q, false); got != line {
		t.Errorf("%q", got)
	}
	if got := queueLine(q, true); got != line+"; 12 dropped since the gateway started" {
		t.Errorf("%q", got)
	}
}

func TestADropSaysWhatItLeft(t *testing.T) {
	before := control.LaneStatus{Identity: "press", Entries: 70}
	for n, want := range map[int64]string{
		0:  "nothing of press was dropped: 70 messages may be on the way to the hub already, or sent before the last start (then --all drops them)\n",
		6:  "6 messages of press dropped; a gap message tells the cloud; 64 may be on the way to the hub already, or sent before the last start (then --all drops them), and wait on\n",
		70: "70 messages of press dropped; a gap message tells the cloud\n",
	} {
		var out bytes.Buffer
		err := (&queueOptions{}).dropped(streams{out: &out}, before, n, false)
		if out.String() != want || (err == nil) != (n > 0) {
			t.Errorf("%d dropped: %q, %v", n, out.String(), err)
		}
	}
	var out bytes.Buffer
	if err := (&queueOptions{}).dropped(streams{out: &out}, control.LaneStatus{Identity: "press"}, 0, true); err != nil || out.String() != "nothing waits for press\n" {
		t.Errorf("%q, %v", out.String(), err)
	}
	out.Reset()
	if err := (&queueOptions{}).dropped(streams{out: &out}, before, 69, true); err != nil || strings.Contains(out.String(), "--all") {
		t.Errorf("after --all: %q, %v", out.String(), err)
	}
}

func TestAWordThatIsNoCommandIsAWrongCommandLine(t *testing.T) {
	for _, args := range [][]string{{"chek"}, {"queue", "lst"}, {"queue", "--json", "dead", "shw"}, {"hub", "sned"}} {
		var out, errs bytes.Buffer
		if code := execute(t.Context(), args, streams{out: &out, err: &errs}); code != exitUsage || out.Len() > 0 || !strings.Contains(errs.String(), "--help'") {
			t.Errorf("%v: exit code %d\n%s%s", args, code, out.String(), errs.String())
		}
	}
	for _, args := range [][]string{{}, {"queue"}, {"queue", "dead"}, {"hub"}} {
		var out, errs bytes.Buffer
		if code := execute(t.Context(), args, streams{out: &out, err: &errs}); code != exitOK || errs.Len() > 0 || !strings.Contains(out.String(), "Available Commands") {
			t.Errorf("%v: exit code %d\n%s%s", args, code, out.String(), errs.String())
		}
	}
}
