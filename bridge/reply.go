package bridge

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	gateway "iothub-gateway"
)

// The codes of a failure; Handle documents them.
const (
	codeBadArgument = "bad-argument"
	codeReadOnly    = "read-only"
	codeUnknown     = "unknown"
	codeNotMet      = "not-met"
	codeBusy        = "busy"
	codeRefused     = "refused"
	codeFailed      = "failed"
	codeStopping    = "stopping"
	codeNoAnswer    = "no-answer"
	codeUncertain   = "uncertain"
	codeExpired     = "expired"
)

const (
	// maxReply is the largest body that the hub takes (METH-8), in bytes.
	maxReply = 128 << 10
	// maxErrorText bounds an error text in a body, in bytes.
	maxErrorText = 1000
	// milliseconds is RFC 3339 with milliseconds.
	milliseconds = "2006-01-02T15:04:05.000Z07:00"
)

// failure is a command that was not carried out, or not surely.
type failure struct {
	status int
	code   string
	text   string
	point  gateway.PointID  // "" if the trouble is not a point's
	reason *gateway.Refusal // nil unless the device refused
}

// reply is the failure as the cloud gets it.
func (f failure) reply() gateway.Reply {
	b := appendText([]byte(`{"error":`), clip(f.text))
	b = appendText(append(b, `,"code":`...), f.code)
	if f.point != "" {
		b = appendText(append(b, `,"point":`...), string(f.point))
	}
	if r := f.reason; r != nil {
		b = appendText(append(b, `,"exception":{"protocol":`...), r.Protocol)
		b = appendText(append(b, `,"code":`...), r.Code)
		b = append(appendText(append(b, `,"name":`...), r.Name), '}')
	}
	return gateway.Reply{Status: f.status, Body: append(b, '}')}
}

// clip bounds an error text.
func clip(text string) string {
	if len(text) <= maxErrorText {
		return text
	}
	return strings.ToValidUTF8(text[:maxErrorText], "") + "..."
}

// The ways in which a write was confirmed, beside the name of a point that has the value.
const (
	bySent     = "sent"
	byReadBack = "read-back"
)

// confirmation names how a write of the point was confirmed.
func confirmation(id gateway.PointID, c gateway.Confirm) string {
	switch c.By {
	case "":
		return bySent
	case id:
		return byReadBack
	}
	return string(c.By)
}

// written is the reply to a write that was confirmed at t.
func written(id gateway.PointID, v gateway.Value, by gateway.Confirm, t time.Time) gateway.Reply {
	b := appendText([]byte(`{"point":`), string(id))
	b = v.AppendJSON(append(b, `,"written":`...))
	b = appendText(append(b, `,"confirmed":`...), confirmation(id, by))
	return gateway.Reply{Status: 200, Body: append(appendTime(b, t), '}')}
}

// appendTime appends the member t.
func appendTime(b []byte, t time.Time) []byte {
	b = append(b, `,"t":"`...)
	return append(t.UTC().AppendFormat(b, milliseconds), '"')
}

// failureOf translates an error about a point; ctx is the caller's, without the method's timeout.
// known is false for an error that the contract of Device does not name, such as a bare ctx error:
// such an error cannot promise that nothing was sent.
func failureOf(ctx context.Context, id gateway.PointID, err error) (f failure, known bool) {
	f = failure{text: err.Error(), point: id}
	switch {
	case errors.Is(err, gateway.ErrUncertain): // first: no other word may hide that it may have happened
		f.status, f.code = 504, codeUncertain
	case errors.Is(err, gateway.ErrRefused):
		f.status, f.code = 500, codeRefused
		errors.As(err, &f.reason)
	case errors.Is(err, gateway.ErrRange):
		f.status, f.code = 400, codeBadArgument
	case errors.Is(err, gateway.ErrReadOnly):
		f.status, f.code = 403, codeReadOnly
	case errors.Is(err, gateway.ErrUnknownPoint):
		f.status, f.code = 404, codeUnknown
	case errors.Is(err, gateway.ErrTooOften):
		f.status, f.code = 429, codeBusy
	case errors.Is(err, gateway.ErrNoAnswer) && stopping(ctx):
		f.status, f.code = 503, codeStopping
	case errors.Is(err, gateway.ErrNoAnswer):
		f.status, f.code = 504, codeNoAnswer
	default:
		return f, false
	}
	return f, true
}

// writeFailure translates the error of a write.
func writeFailure(ctx context.Context, id gateway.PointID, err error) failure {
	f, known := failureOf(ctx, id, err)
	switch {
	case !known:
		f.status, f.code = 504, codeUncertain
		f.text = fmt.Sprintf("%v: %v", gateway.ErrUncertain, err)
	case f.code == codeStopping:
		f.text = "the gateway is stopping; nothing was sent: " + f.text
	case f.code == codeNoAnswer:
		f.text += "; nothing was sent"
	}
	return f
}

// readFailure translates the error of a read, the first of several points of which none was read.
func readFailure(ctx context.Context, s gateway.Sample) failure {
	f, known := failureOf(ctx, s.Point, s.Err)
	switch {
	case known:
	case stopping(ctx):
		f.status, f.code = 503, codeStopping
	case errors.Is(s.Err, context.DeadlineExceeded):
		f.status, f.code = 504, codeNoAnswer
	default:
		f.status, f.code = 500, codeFailed
	}
	f.text = "no point could be read: " + f.text
	return f
}

// readings is the reply to a read. It fails only if no device answered at all: that a device has no
// value, or a doubtful one, is an answer.
func readings(ctx context.Context, targets []target, samples []gateway.Sample) gateway.Reply {
	var values, quality []byte
	var newest time.Time
	answered := false
	for i, s := range samples {
		answered = answered || s.Err == nil ||
			errors.Is(s.Err, gateway.ErrNotAvailable) || errors.Is(s.Err, gateway.ErrOutOfRange)
		if s.Value.Kind() != gateway.Absent {
			values = s.Value.AppendJSON(append(separated(values), targets[i].key...))
		}
		if s.Err != nil {
			quality = append(separated(quality), targets[i].key...)
			quality = appendText(quality, gateway.Reason(s.Err)+": "+clip(s.Err.Error()))
		}
		if s.Time.After(newest) {
			newest = s.Time
		}
	}
	if !answered {
		return readFailure(ctx, samples[0]).reply()
	}
	if newest.IsZero() {
		newest = time.Now()
	}
	b := append(append([]byte(`{"values":{`), values...), '}')
	if len(quality) > 0 {
		b = append(append(append(b, `,"quality":{`...), quality...), '}')
	}
	b = append(appendTime(b, newest), '}')
	if len(b) > maxReply {
		return failure{status: 500, code: codeFailed, text: fmt.Sprintf(
			"the answer has %d bytes, the hub takes %d: let the method read fewer points", len(b), maxReply)}.reply()
	}
	return gateway.Reply{Status: 200, Body: b}
}
