package hubsim

import (
	"errors"
	"fmt"

	"github.com/rs/zerolog"
)

// misuse is what a client did wrong, in words for whoever looks for the fault of that client. The clauses
// of the hub contract behind it are the log's field "clause": its readers need not know them.
type misuse struct {
	clause, what string
	code         int // six digits that the hub's own logs have for it, 0 for none (MON-10)
}

func (m *misuse) Error() string {
	if m.code == 0 {
		return m.what
	}
	return fmt.Sprintf("%s (%d)", m.what, m.code)
}

func wrong(clause, format string, args ...any) error { return coded(0, clause, format, args...) }

func coded(code int, clause, format string, args ...any) error {
	return &misuse{clause, fmt.Sprintf(format, args...), code}
}

// violation is something a client must not do: the hub closes the connection (CLOSE-0).
type violation struct{ error }

func (v *violation) Error() string { return v.error.Error() + ": IoT Hub closes the connection" }

func (v *violation) Unwrap() error { return v.error }

func violates(clause, format string, args ...any) error {
	return &violation{wrong(clause, format, args...)}
}

// refusal is a CONNECT that gets a CONNACK with a return code other than 0, or none with code 0.
type refusal struct {
	error
	code byte
}

func (r *refusal) Error() string {
	if r.code == 0 {
		return r.error.Error() + ": IoT Hub closes the connection"
	}
	return fmt.Sprintf("%v: CONNACK %d", r.error, r.code)
}

func (r *refusal) Unwrap() error { return r.error }

func refuse(code byte, why error) *refusal { return &refusal{why, code} }

// complain writes the one line about what a client did wrong.
func (h *Hub) complain(who string, err error) {
	line := h.log.Warn().Str("identity", who)
	clauses(line, err).Msg(who + ": " + err.Error())
}

// clauses adds the clauses behind err, if it has any, to a line of the log.
func clauses(line *zerolog.Event, err error) *zerolog.Event {
	var m *misuse
	if errors.As(err, &m) {
		line = line.Str("clause", m.clause)
	}
	return line
}
