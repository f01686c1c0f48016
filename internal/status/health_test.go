package status

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
)

func TestTheHealthPageSaysStateAndReasons(t *testing.T) {
	listener, err := Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	now := Health{State: Starting}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- Serve(ctx, listener, Handler(func() Health { return now })) }()
	for state, code := range map[State]int{Starting: 503, Running: 200, Degraded: 200, Stuck: 503} {
		now = Health{State: state, Reasons: []string{"device boiler is down"}}
		answer, err := http.Get("http://" + listener.Addr().String() + "/healthz")
		if err != nil {
			t.Fatal(err)
		}
		var got Health
		if err := json.NewDecoder(answer.Body).Decode(&got); err != nil {
			t.Fatal(err)
		}
		answer.Body.Close()
		if answer.StatusCode != code || got.State != state || len(got.Reasons) != 1 {
			t.Errorf("%s: status %d, body %+v", state, answer.StatusCode, got)
		}
	}
	http.DefaultClient.CloseIdleConnections()
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestAnAddressInUseIsSaidWithTheRemedy(t *testing.T) {
	first, err := Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	if _, err := Listen(first.Addr().String()); err == nil || !strings.Contains(err.Error(), "--health") {
		t.Errorf("got %v", err)
	}
}
