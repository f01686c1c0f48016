package main

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"iothub-gateway/internal/control"
)

func TestTroubleThatManyShareIsOneSentence(t *testing.T) {
	var a alike
	for i := range 300 {
		a.add("EOF", fmt.Sprintf("m%d", i))
	}
	a.add("refused", "x")
	for i := range 50 {
		a.add(fmt.Sprintf("reason %d", i), "y")
	}
	var got []string
	a.each(func(why string, who []string) {
		got = append(got, are("identity", "identities", who)+" not connected: "+why)
	})
	if len(got) != mostAlike+1 || got[0] != "identities m0, m1, m2 and 297 others are not connected: EOF" || got[1] != "identity x is not connected: refused" ||
		!strings.HasPrefix(got[mostAlike], "identities y, y, y and 39 others are not connected: for other reasons") {
		t.Errorf("%d: %s", len(got), strings.Join(got, "\n"))
	}
	if got := are("device", "devices", []string{"a", "b"}); got != "devices a, b are" {
		t.Error(got)
	}
}

func TestStatusCountsWhoIsHowBeforeItListsThem(t *testing.T) {
	page := control.Status{
		Identities: []control.IdentityStatus{{Identity: "a", State: "connected"}, {Identity: "b", State: "refused"}, {Identity: "c", State: "connected"}},
		Devices:    []control.DeviceStatus{{Device: "d", State: "down"}},
	}
	var out strings.Builder
	showStatus(&out, page, time.Now())
	if want := "3 identities: 2 connected, 1 refused; 1 device: 1 offline\n"; !strings.Contains(out.String(), want) {
		t.Errorf("%s lacks %q", out.String(), want)
	}
}
