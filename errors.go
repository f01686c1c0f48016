package gateway

import (
	"errors"
	"fmt"
)

// What can be wrong with a reading or a write, as far as anybody above an adapter branches on it.
// Adapters wrap these with the place: "modbus: 10.0.0.7:502 unit 3 holding 40..41: no answer".
var (
	ErrUnknownPoint = errors.New("unknown point")
	ErrReadOnly     = errors.New("the point cannot be written")
	// ErrRange: the value is outside the limits, not a word of the enum, of the wrong type, or
	// cannot be represented in the register. Nothing was sent to the device.
	ErrRange = errors.New("value not allowed")
	// ErrRefused: the device answered and said no. The chain holds a *Refusal.
	ErrRefused = errors.New("the device refused")
	// ErrNoAnswer: the device could not be reached, or did not answer in time. A write was not sent.
	ErrNoAnswer = errors.New("no answer")
	// ErrUncertain: a write was sent and no answer came; the device may have executed it (MB-75).
	ErrUncertain = errors.New("sent, but not confirmed; the device may have executed it")
	// ErrTooOften: the point or its link has been written as often as the mapping allows. Nothing was sent.
	ErrTooOften = errors.New("written too often")
	// ErrNotAvailable: the device answered with the value that its manual defines as "no value".
	ErrNotAvailable = errors.New("the device has no value")
	// ErrFull: the queue has reached a limit whose mapping says refuse-new. Nothing was stored of the
	// identities that a *FullError in the chain names; trying again soon is of no use.
	ErrFull = errors.New("the queue is full")
	// ErrOutOfRange: the reading lies outside the range that the mapping gives for a good one.
	ErrOutOfRange = errors.New("out of range")
)

// Refusal is a device's own "no": a Modbus exception or a CoAP error code. errors.Is(r, ErrRefused).
type Refusal struct {
	Protocol string // "modbus" or "coap"
	Code     string // "2", "4.04"
	Name     string // "illegal data address"
}

// Error names the code and its meaning: "exception 2 (illegal data address)".
func (r *Refusal) Error() string {
	return fmt.Sprintf("exception %s (%s)", r.Code, r.Name)
}

// Is makes every Refusal an ErrRefused.
func (r *Refusal) Is(target error) bool { return target == ErrRefused }

// FullError names the identities whose messages a full queue refused; those of others in the same
// call were stored. errors.Is(e, ErrFull).
type FullError struct {
	Identities []IdentityID // in the order of the call, each once
	// Points are the points whose readings were due and refused, one for each reading; nil from the queue itself,
	// which knows no points. Every other reading of the call was accepted.
	Points []PointID
}

// Error names the identities and the remedy.
func (e *FullError) Error() string {
	return fmt.Sprintf("%v for %v: raise the limit under buffer, or see why nothing is delivered", ErrFull, e.Identities)
}

// Is makes every FullError an ErrFull.
func (e *FullError) Is(target error) bool { return target == ErrFull }

// Reason is the short word that stands for err in a message's quality field: "" for nil,
// "device" (it refused), "not available", "out of range", or "comm".
func Reason(err error) string {
	switch {
	case err == nil:
		return ""
	case errors.Is(err, ErrRefused):
		return "device"
	case errors.Is(err, ErrNotAvailable):
		return "not available"
	case errors.Is(err, ErrOutOfRange):
		return "out of range"
	default:
		return "comm"
	}
}
