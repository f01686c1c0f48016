package upstream

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"syscall"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"

	"iothub-gateway/identity"
)

// What the pauses between attempts begin with; they double up to Config.RetryMost, those after a refusal
// three times as far.
const (
	lostPause     = time.Second
	busyPause     = 5 * time.Second
	refusedPause  = 10 * time.Second
	conflictPause = time.Minute
	refusalFactor = 3 // credentials rarely heal by themselves, but they do (CON-37)
)

const (
	stableAfter   = 60 * time.Second
	quickLoss     = 30 * time.Second // a connection that ends sooner, conflictAfter times in a row,
	conflictAfter = 3                // is most likely taken over by somebody else (CON-45)
)

// State is how an identity's connection is doing, in one word.
type State string

// The states.
const (
	StateConnecting State = "connecting" // it has its turn soon, or is on its way
	StateConnected  State = "connected"
	StateOffline    State = "offline"  // the connection was lost or the hub cannot be reached
	StateRefused    State = "refused"  // the hub does not accept the credentials
	StateBusy       State = "busy"     // the hub throttles: it takes no connection now, or closes at the first message
	StateConflict   State = "conflict" // somebody else connects with the same identity
)

var (
	errConflict = errors.New("the hub ends the connection again and again just after it was made: does another gateway or tool use this identity?")
	errRejected = errors.New("the hub closes the connection at the first message: its daily quota may be used up, or it throttles")
)

// ending is what is known about the end of a connection, or of an attempt to make one.
type ending struct {
	err     error
	lasted  time.Duration // since the hub had accepted it; 0 if it did not
	flying  int           // messages in flight
	acked   bool          // the hub had acknowledged some
	away    bool          // no identity reaches the hub
	missed  uint64        // attempts of all identities so far that did not reach it
	suspect bool          // what was in flight is under suspicion of ending connections (suspicion.go)
	// proof is what an attempt was made with, if somebody may replace it, zero if there was none; else nil.
	proof *identity.Login
}

// remote tells whether the other side ended a connection that stood.
func (e ending) remote() bool {
	return e.lasted > 0 && (errors.Is(e.err, io.EOF) || errors.Is(e.err, io.ErrUnexpectedEOF) ||
		errors.Is(e.err, syscall.ECONNRESET) || errors.Is(e.err, syscall.EPIPE))
}

// rejected tells whether the hub took the connection, and not the first of the messages.
func (e ending) rejected() bool { return e.remote() && e.flying > 0 && !e.acked }

// history is what an identity's attempts have come to so far.
type history struct {
	tries int // since a connection was stable
	quick int // connections in a row that somebody ended soon after they were made
	// missed is that of the last ending: one that the hub's own outage followed was no take-over.
	missed uint64
}

// decision is what follows from an ending.
type decision struct {
	state State
	err   error
	pause time.Duration
}

// after takes an ending in and decides when to try again, r in [0,1) being chance. most is how far pauses
// grow.
func (h *history) after(e ending, most time.Duration, r float64) decision {
	v := decision{state: StateOffline, err: e.err}
	if e.lasted >= stableAfter && !e.rejected() {
		h.tries, h.quick = 0, 0
	}
	if e.missed != h.missed { // what ended the last connection was most likely the hub's own outage
		if h.quick, h.missed = 0, e.missed; e.lasted > 0 {
			h.tries = 0
		}
	}
	switch {
	case e.lasted == 0, e.lasted > quickLoss: // the hub has trouble of its own, or leaves us in peace
		h.quick = 0
	case e.remote() && !e.rejected() && !e.suspect:
		h.quick++
	}
	var no *refusedError
	base := lostPause
	switch {
	case e.away: // the pool looks when the hub is back, for all
		return v
	case (errors.As(e.err, &no) && no.credentials() || errors.Is(e.err, identity.ErrRefused)) && !aboutClock(e.err):
		v.state, base, most = StateRefused, refusedPause, refusalFactor*most
	case errors.As(e.err, &no) && no.code == packets.ErrRefusedServerUnavailable:
		v.state, base = StateBusy, busyPause
	case h.quick >= conflictAfter:
		v.state, v.err, base = StateConflict, fmt.Errorf("%w (%w)", errConflict, e.err), conflictPause
	case e.rejected():
		v.state, v.err, base = StateBusy, fmt.Errorf("%w (%w)", errRejected, e.err), busyPause
	}
	v.pause = delay(base, h.tries, most, r)
	if v.state == StateConflict { // not so soon that the two fight
		v.pause = min(base, most)/2 + v.pause/2
	}
	h.tries++
	return v
}

// delay is how long to wait before the next attempt after tries that failed: full jitter, r in [0,1), over
// an interval that doubles from base up to most (CLOSE-23).
func delay(base time.Duration, tries int, most time.Duration, r float64) time.Duration {
	return time.Duration(r * float64(min(base<<min(tries, 20), most)))
}

// resultOf is what an attempt says about the hub.
func resultOf(err error, wanted context.Context) result {
	var no *refusedError
	switch {
	case err == nil:
		return accepted
	case wanted.Err() != nil:
		return given
	case errors.As(err, &no) && no.code == packets.ErrRefusedServerUnavailable:
		return busy
	case errors.As(err, &no), ofTheIdentity(err):
		return refused
	}
	return unreachable
}

// ofTheIdentity tells whether a TLS handshake failed for a reason that others need not have: a client's
// certificate, or one that the hub showed.
func ofTheIdentity(err error) bool {
	var alert tls.AlertError
	var shown *tls.CertificateVerificationError
	var unknown x509.UnknownAuthorityError
	return errors.As(err, &alert) || errors.As(err, &shown) || errors.As(err, &unknown)
}
