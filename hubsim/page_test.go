package hubsim_test

import (
	"context"
	"os"
	"regexp"
	"strings"
	"testing"
)

// pageCommand is a line of docs/hubsim.md that asks the hub: its path, its method, its body, and -N for a
// stream.
var pageCommand = regexp.MustCompile(`(?m)^hub '([^']+)'(?: -X ([A-Z]+))?(?: -d '([^']*)')?( -N)?$`)

func TestTheCommandsOfThePageWork(t *testing.T) {
	text, err := os.ReadFile("../docs/hubsim.md")
	if err != nil {
		t.Fatal(err)
	}
	hub := startHub(t, hubConfig())
	if _, err := hub.Register("dev1", "camera"); err != nil {
		t.Fatal(err)
	}
	all := pageCommand.FindAllStringSubmatch(string(text), -1)
	if lines := strings.Count(string(text), "\nhub '"); len(all) < 20 || lines != len(all) {
		t.Fatalf("%d of %d commands are understood", len(all), lines)
	}
	service := hub.rest(t)
	for _, c := range all {
		if c[4] != "" {
			ctx, cancel := context.WithCancel(t.Context())
			service.listen(ctx, c[1], "")
			cancel()
			continue
		}
		method := c[2]
		switch {
		case method == "" && c[3] != "":
			method = "POST"
		case method == "":
			method = "GET"
		}
		if status, code, answer := service.do(method, c[1], c[3]); status/100 != 2 {
			t.Errorf("%s: %d %s %s", c[0], status, code, answer)
		}
	}
}
