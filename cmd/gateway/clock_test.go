package main

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"iothub-gateway/internal/testkit"
)

func TestAClockCountsAsRightWhileItIsKeptOrRunsOnUndisturbed(t *testing.T) {
	noon := time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)
	at := func(wall, boot time.Duration, s synchrony) reading { return reading{noon.Add(wall), boot, s} }
	for name, c := range map[string]struct {
		trusted  bool
		earliest time.Time
		looks    []reading
		good     bool
		says     string
	}{
		"kept":                        {looks: []reading{at(0, 0, synchronised)}, good: true, says: "synchronised"},
		"never kept":                  {looks: []reading{at(0, 0, unsynchronised)}, says: "not synchronised"},
		"nobody can tell":             {looks: []reading{at(0, 0, unasked)}, good: true, says: "cannot be asked"},
		"trusted":                     {trusted: true, looks: []reading{at(0, 0, unsynchronised)}, good: true, says: "trusted"},
		"before the build":            {trusted: true, earliest: noon.Add(1), looks: []reading{at(0, 0, synchronised)}, says: "before the last time that was known to be right"},
		"the future was a mistake":    {earliest: noon.AddDate(10, 0, 0), looks: []reading{at(0, 0, synchronised), at(time.Hour, time.Hour, synchronised)}, good: true, says: "synchronised"},
		"perhaps a mistake":           {earliest: noon.AddDate(10, 0, 0), looks: []reading{at(0, 0, synchronised), at(time.Minute, time.Minute, synchronised)}, says: "before the last time that was known to be right"},
		"before, and set":             {earliest: noon.AddDate(10, 0, 0), looks: []reading{at(0, 0, synchronised), at(0, time.Hour, synchronised)}, says: "before the last time that was known to be right"},
		"before, and not kept":        {earliest: noon.AddDate(10, 0, 0), looks: []reading{at(0, 0, unsynchronised), at(2*time.Hour, 2*time.Hour, unsynchronised)}, says: "not synchronised"},
		"an outage of three days":     {looks: []reading{at(0, 0, synchronised), at(72*time.Hour+time.Minute, 72*time.Hour, unsynchronised)}, good: true, says: "was synchronised, and runs on"},
		"set by hand in the meantime": {looks: []reading{at(0, 0, synchronised), at(2*time.Hour, time.Hour, unsynchronised)}, says: "not synchronised"},
		"set back":                    {looks: []reading{at(0, 0, synchronised), at(0, time.Hour, unsynchronised)}, says: "not synchronised"},
		"kept again":                  {looks: []reading{at(0, 0, unsynchronised), at(time.Hour, 1, synchronised)}, good: true, says: "synchronised"},
		"steps while it is kept":      {looks: []reading{at(0, 0, synchronised), at(time.Hour, 1, synchronised), at(time.Hour, 2, unsynchronised)}, good: true, says: "was synchronised, and runs on"},
	} {
		clock := &clock{trusted: c.trusted, earliest: c.earliest}
		var good bool
		for _, r := range c.looks {
			clock.look = func() reading { return r }
			_, good = clock.Now()
		}
		if good != c.good {
			t.Errorf("%s: good is %t", name, good)
		}
		if says := clock.Synchrony(); says != c.says {
			t.Errorf("%s: %q, want %q", name, says, c.says)
		}
	}
}

func TestTheMachinesClockIsReadWithoutPrivileges(t *testing.T) {
	before := time.Now()
	r := machineClock()
	if r.wall.Before(before) || r.boot <= 0 || r.sync == unasked {
		t.Errorf("%+v", r)
	}
}

func TestWhereTheKernelMayNotBeAskedTheTimeServiceTells(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "timesync")
	for _, c := range []struct {
		make func() error
		want synchrony
	}{
		{func() error { return nil }, unasked},
		{func() error { return os.Mkdir(dir, 0o700) }, unsynchronised},
		{func() error { return os.WriteFile(filepath.Join(dir, "synchronized"), nil, 0o600) }, synchronised},
	} {
		if err := c.make(); err != nil {
			t.Fatal(err)
		}
		if got := fileSynchrony(dir); got != c.want {
			t.Errorf("%v, want %v", got, c.want)
		}
	}
}

func TestAClockThatStandsBeforeItsLastGoodTimeIsWrongAfterARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		state := &testkit.Notes{}
		ctx, cancel := context.WithCancel(t.Context())
		c := &clock{look: func() reading { return reading{wall: time.Now(), sync: synchronised} }}
		ended := make(chan error, 1)
		go func() { ended <- c.remember(ctx, state) }()
		<-time.After(10*clockEvery + 1)
		cancel()
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
		for shift, want := range map[time.Duration]bool{0: true, -2 * clockEvery: false} {
			next := &clock{look: func() reading { return reading{wall: time.Now().Add(shift), sync: synchronised} }}
			next.recall(state)
			if _, good := next.Now(); good != want {
				t.Errorf("%v later: good is %t", shift, good)
			}
		}
		bad := &clock{look: func() reading { return reading{wall: time.Now().Add(365 * 24 * time.Hour), sync: unsynchronised} }}
		ctx, cancel = context.WithCancel(t.Context())
		go func() { ended <- bad.remember(ctx, state) }()
		<-time.After(2 * clockEvery)
		cancel()
		<-ended
		c.recall(state)
		if _, good := c.Now(); !good {
			t.Error("a time that was never known to be right was kept")
		}
	})
}
