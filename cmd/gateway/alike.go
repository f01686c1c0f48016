package main

import (
	"fmt"
	"strings"
)

// mostAlike is how many reasons of one kind are told apart: a page of them says less than their number.
const mostAlike = 10

// alike gathers who has the same trouble, so that an outage of thousands is one sentence.
type alike struct {
	reasons []string // in the order in which they came
	names   map[string][]string
}

func (a *alike) add(reason, name string) {
	if _, known := a.names[reason]; !known && len(a.reasons) >= mostAlike {
		reason = "for other reasons, see 'gateway status'"
	}
	if _, known := a.names[reason]; !known {
		a.reasons = append(a.reasons, reason)
	}
	if a.names == nil {
		a.names = map[string][]string{}
	}
	a.names[reason] = append(a.names[reason], name)
}

func (a *alike) each(f func(reason string, names []string)) {
	for _, reason := range a.reasons {
		f(reason, a.names[reason])
	}
}

// are is "device a is", "devices a, b are" or, of many, "devices a, b, c and 297 others are".
func are(one, many string, names []string) string {
	const most = 4
	switch n := len(names); {
	case n == 1:
		return one + " " + names[0] + " is"
	case n > most:
		return fmt.Sprintf("%s %s and %d others are", many, strings.Join(names[:most-1], ", "), n-most+1)
	}
	return many + " " + strings.Join(names, ", ") + " are"
}
