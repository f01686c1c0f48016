package upstream

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestBackoffDoublesWithFullJitterUpToItsBound(t *testing.T) {
	for tries, most := range map[int]time.Duration{0: time.Second, 1: 2 * time.Second, 5: 32 * time.Second, 9: 5 * time.Minute, 1000: 5 * time.Minute} {
		if low, high := delay(time.Second, tries, DefaultRetryMost, 0), delay(time.Second, tries, DefaultRetryMost, 0.999999); low != 0 || high > most || high < most*9/10 {
			t.Errorf("after %d tries: %v to %v, want 0 to %v", tries, low, high, most)
		}
	}
}

// lostAfter is an ending by the other side.
func lostAfter(d time.Duration) ending {
	return ending{err: fmt.Errorf("connection lost: %w", io.EOF), lasted: d}
}

// state is the last of what a series of endings leads to.
func stateAfter(endings ...ending) (v decision) {
	var h history
	for _, e := range endings {
		v = h.after(e, DefaultRetryMost, 0.5)
	}
	return v
}

func TestWhatEndedAConnectionDecidesHowSoonItIsTriedAgain(t *testing.T) {
	rejected := lostAfter(time.Second)
	rejected.flying = 3
	poison := lostAfter(time.Second)
	poison.flying, poison.acked, poison.suspect = 1, true, true
	quick, slow := lostAfter(time.Second), lostAfter(time.Hour)
	timeout := ending{err: errAckTimeout, lasted: time.Second}
	var restarts []ending
	for n := range uint64(9) {
		restart := quick
		restart.missed = n
		restarts = append(restarts, restart)
	}
	for name, c := range map[string]struct {
		got       decision
		state     State
		low, high time.Duration
	}{
		"a loss":                        {stateAfter(slow), StateOffline, 0, time.Second},
		"a bad key":                     {stateAfter(ending{err: &refusedError{code: 5}}), StateRefused, time.Second, 10 * time.Second},
		"a bad key for ever":            {stateAfter(repeat(ending{err: &refusedError{code: 5}}, 100)...), StateRefused, 7 * time.Minute, 15 * time.Minute},
		"a wrong clock":                 {stateAfter(repeat(ending{err: &clockError{&refusedError{code: 5}, time.Hour}}, 100)...), StateOffline, 0, 5 * time.Minute},
		"a busy hub":                    {stateAfter(ending{err: &refusedError{code: 3}}), StateBusy, time.Second, 5 * time.Second},
		"a quota that is used up":       {stateAfter(rejected, rejected, rejected, rejected), StateBusy, 10 * time.Second, 40 * time.Second},
		"no hub":                        {stateAfter(repeat(ending{err: syscall.ECONNREFUSED, away: true}, 50)...), StateOffline, 0, 0},
		"two quick losses":              {stateAfter(quick, quick), StateOffline, 0, 2 * time.Second},
		"somebody else":                 {stateAfter(quick, quick, quick), StateConflict, 30 * time.Second, 5 * time.Minute},
		"somebody else for ever":        {stateAfter(repeat(quick, 100)...), StateConflict, 30 * time.Second, 5 * time.Minute},
		"losses with peace between":     {stateAfter(quick, quick, slow, quick, quick), StateOffline, 0, 5 * time.Minute},
		"losses with trouble between":   {stateAfter(quick, quick, ending{err: syscall.ECONNREFUSED}, quick, quick), StateOffline, 0, 5 * time.Minute},
		"a hub that restarts":           {stateAfter(restarts...), StateOffline, 0, 5 * time.Minute},
		"poison":                        {stateAfter(repeat(poison, 9)...), StateOffline, 0, 5 * time.Minute},
		"a network that comes and goes": {stateAfter(repeat(timeout, 9)...), StateOffline, 0, 5 * time.Minute},
	} {
		if c.got.state != c.state || c.got.pause < c.low || c.got.pause > c.high {
			t.Errorf("%s: %s, again in %v (%v); want %s in %v to %v", name, c.got.state, c.got.pause, c.got.err, c.state, c.low, c.high)
		}
	}
	if v := stateAfter(quick, quick, quick); !strings.Contains(v.err.Error(), "another gateway") {
		t.Errorf("a conflict is told as %q", v.err)
	}
}

func repeat(e ending, n int) (all []ending) {
	for range n {
		all = append(all, e)
	}
	return all
}

func TestAnAttemptSaysWhetherItIsTheHubOrTheIdentity(t *testing.T) {
	over, cancel := context.WithCancel(t.Context())
	cancel()
	for _, c := range []struct {
		err    error
		wanted context.Context
		want   result
	}{
		{nil, t.Context(), accepted},
		{&refusedError{code: 3}, t.Context(), busy},
		{&refusedError{code: 5}, t.Context(), refused},
		{fmt.Errorf("hub: %w", syscall.ECONNREFUSED), t.Context(), unreachable},
		{context.DeadlineExceeded, t.Context(), unreachable},
		{io.EOF, t.Context(), unreachable},
		{fmt.Errorf("hub: %w", tls.AlertError(42)), t.Context(), refused},
		{&tls.CertificateVerificationError{Err: errors.New("no")}, t.Context(), refused},
		{context.Canceled, over, given},
	} {
		if got := resultOf(c.err, c.wanted); got != c.want {
			t.Errorf("%v: result %d, want %d", c.err, got, c.want)
		}
	}
}

func TestARefusalNamesWhatToCompare(t *testing.T) {
	for want, err := range map[string]*refusedError{
		"compare the identity's key":           {code: 5},
		"compare the certificate's thumbprint": {code: 4, certificate: true},
		"(code 3)":                             {code: 3, certificate: true},
	} {
		if text := err.Error(); !strings.Contains(text, want) || strings.Contains(text, "compare") != strings.Contains(want, "compare") {
			t.Errorf("%q, want %q", text, want)
		}
	}
}
