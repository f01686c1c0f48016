package upstream

import (
	"testing"

	gateway "iothub-gateway"
)

func TestADesiredValueIsWrittenWhenItDiffersOrMustBeTriedAgain(t *testing.T) {
	on, always := gateway.Desired{Path: "p"}, gateway.Desired{Path: "p", Always: true}
	touched := step{touched: map[string]bool{"p": true}}
	other := step{touched: map[string]bool{"q": true}}
	full, newer, pending := step{full: true}, step{full: true, newer: true}, step{pending: true}
	was := func(status int) *outcomeOf { return &outcomeOf{"h", status} }
	for _, c := range []struct {
		what string
		st   step
		rule gateway.Desired
		was  *outcomeOf
		hash string
		want bool
	}{
		{"never applied", full, on, nil, "h", true},
		{"another value", touched, on, was(200), "x", true},
		{"another value, after a refusal", touched, on, was(400), "x", true},
		{"the same value, set again", touched, on, was(200), "h", false},
		{"the same value, at a connection", newer, on, was(200), "h", false},
		{"the same value, always, at a connection", full, always, was(200), "h", true},
		{"the same value, always, set again", touched, always, was(200), "h", false},
		{"pending, at a connection", full, on, was(202), "h", true},
		{"pending, tried again", pending, on, was(202), "h", true},
		{"pending, while another one changes", other, on, was(202), "h", false},
		{"done, while others are tried again", pending, on, was(200), "h", false},
		{"refused, at a connection", full, on, was(400), "h", false},
		{"refused, at a connection, something was set since", newer, on, was(400), "h", true},
		{"refused, set again", touched, on, was(400), "h", true},
		{"uncertain, tried again", pending, on, was(504), "h", false},
		{"uncertain, set again", touched, on, was(504), "h", true},
	} {
		if got := c.st.due(c.rule, c.was, c.hash); got != c.want {
			t.Errorf("%s: %v", c.what, got)
		}
	}
}
