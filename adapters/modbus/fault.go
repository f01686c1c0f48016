package modbus

import (
	"fmt"
	"strconv"

	gateway "iothub-gateway"
)

// faultKind says how one exchange failed, as far as the adapter treats the cases differently.
type faultKind uint8

const (
	impossible faultKind = iota + 1 // the request cannot be formed; nothing was sent
	down                            // no connection; nothing was sent
	silent                          // no answer came in time; the connection stays (MB-80)
	lost                            // the connection broke
	violated                        // the answer is not Modbus, or not to this request (MB-6, MB-96)
	excepted                        // the device answered with an exception
	aborted                         // the context ended
	forbidden                       // the link does not send such requests; nothing was sent
)

// fault is the outcome of an exchange that gave no result.
type fault struct {
	kind faultKind
	code byte // the exception code of excepted
	sent bool // a part of the request left
	// closed: the peer ended a connection that had worked, without a byte of an answer. A read may
	// be repeated at once (MB-118, "peer close between polls").
	closed bool
	// waiting: the last connection has just ended, and a new one was not tried yet (MB-81).
	waiting bool
	err     error
}

func (f *fault) Error() string { return f.err.Error() }

// alive tells whether the fault proves that the unit answers (MB-7).
func (f *fault) alive() bool {
	return f.kind == excepted && f.code != pathUnavailable && f.code != targetSilent
}

// readErr is the fault in the words of the root package, for a Sample.
func (f *fault) readErr() error {
	switch {
	case f.alive():
		return refusal(f.code)
	case f.kind == impossible:
		return f.err
	default:
		return fmt.Errorf("%w: %v", gateway.ErrNoAnswer, f.err)
	}
}

// writeErr is the fault in the words of the root package, for a write. Exceptions 5 and 11 leave
// open whether the device did or will do it (MB-7).
func (f *fault) writeErr() error {
	switch {
	case f.kind == excepted && (f.code == acknowledge || f.code == targetSilent):
		return fmt.Errorf("%w: %v", gateway.ErrUncertain, f.err)
	case f.kind == excepted && f.code == pathUnavailable:
		return fmt.Errorf("%w: %v", gateway.ErrNoAnswer, f.err)
	case f.kind == excepted:
		return refusal(f.code)
	case f.kind == impossible:
		return fmt.Errorf("%w: %v", gateway.ErrRange, f.err)
	case f.kind == forbidden:
		return fmt.Errorf("%w: %v", gateway.ErrReadOnly, f.err)
	case f.sent:
		return fmt.Errorf("%w: %v", gateway.ErrUncertain, f.err)
	default:
		return fmt.Errorf("%w: %v", gateway.ErrNoAnswer, f.err)
	}
}

// The exception codes that the adapter treats in a way of their own (MB-7).
const (
	illegalFunction = 1
	illegalAddress  = 2
	illegalValue    = 3
	acknowledge     = 5
	busy            = 6
	pathUnavailable = 10
	targetSilent    = 11
)

func exceptionFault(code byte) *fault {
	return &fault{kind: excepted, code: code, sent: true, err: refusal(code)}
}

func refusal(code byte) *gateway.Refusal {
	return &gateway.Refusal{Protocol: "modbus", Code: strconv.Itoa(int(code)), Name: exceptionName(code)}
}

// exceptionName is the name of an exception code in the words of the application protocol (MB-7).
func exceptionName(code byte) string {
	switch code {
	case illegalFunction:
		return "illegal function"
	case illegalAddress:
		return "illegal data address"
	case illegalValue:
		return "illegal data value"
	case 4:
		return "server device failure"
	case acknowledge:
		return "acknowledge"
	case busy:
		return "server device busy"
	case 7:
		return "negative acknowledge"
	case 8:
		return "memory parity error"
	case pathUnavailable:
		return "gateway path unavailable"
	case targetSilent:
		return "gateway target device failed to respond"
	}
	return "not defined by the standard"
}
