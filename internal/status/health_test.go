package status

import (
	"encoding/json"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestTheHealthPageSaysStateAndReasons(t *testing.T) {
	for state, code := range map[State]int{Starting: 503, Running: 200, Degraded: 200, Stuck: 503} {
		now := Health{State: state, Reasons: []string{"device boiler is down"}}
		answer := httptest.NewRecorder()
		Handler(func() Health { return now }).ServeHTTP(answer, httptest.NewRequest("GET", "/healthz", nil))
		var got Health
		if err := json.NewDecoder(answer.Body).Decode(&got); err != nil {
			t.Fatal(err)
		}
		if answer.Code != code || got.State != state || len(got.Reasons) != 1 {
			t.Errorf("%s: status %d, body %+v", state, answer.Code, got)
		}
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
