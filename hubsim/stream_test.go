package hubsim_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"iothub-gateway/hubsim"
)

func TestTheStreamHasStoredMessagesThenNewOnes(t *testing.T) {
	hub := startHub(t, hubConfig())
	client := hub.paho(t, "dev1")
	for range 3 {
		client.Publish(dev1Events, 1, false, "{}").Wait()
	}
	service := hub.rest(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	open := func(path, last string) *bufio.Scanner {
		request, err := http.NewRequestWithContext(ctx, "GET", "https://"+hub.HTTPSAddr()+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Authorization", service.token)
		request.Header.Set("Last-Event-ID", last)
		response, err := service.client.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = response.Body.Close() })
		if kind := response.Header.Get("Content-Type"); response.StatusCode != 200 || kind != "text/event-stream" {
			t.Fatalf("%d %s", response.StatusCode, kind)
		}
		return bufio.NewScanner(response.Body)
	}
	streams := []*bufio.Scanner{open("/hubsim/messages/stream?after=1", ""), open("/hubsim/messages/stream", "1"), open("/hubsim/messages/stream?device=dev1", "1")}
	nobody := open("/hubsim/messages/stream?device=dev2", "")
	for i := 2; i <= 6; i++ {
		if i > 3 {
			client.Publish(dev1Events, 1, false, "{}").Wait()
		}
		for _, lines := range streams {
			if got := event(t, lines); got.Sequence != uint64(i) || got.Device != "dev1" {
				t.Fatalf("event %+v, want %d", got, i)
			}
		}
	}
	hub.paho(t, "dev2").Publish("devices/dev2/messages/events/", 1, false, "{}").Wait()
	if got := event(t, nobody); got.Sequence != 7 {
		t.Errorf("the stream of dev2 has %+v", got)
	}
	if status, _, _ := service.do("GET", "/hubsim/messages/stream?after=x", ""); status != 400 {
		t.Errorf("a bad after: %d", status)
	}
}

// event reads one server-sent event, whose id must be its message's sequence.
func event(t *testing.T, lines *bufio.Scanner) (m hubsim.Message) {
	t.Helper()
	id := ""
	for lines.Scan() {
		field, value, _ := strings.Cut(lines.Text(), ": ")
		switch field {
		case "id":
			id = value
		case "data":
			if err := json.Unmarshal([]byte(value), &m); err != nil {
				t.Fatal(err)
			}
		case "":
			if id != fmt.Sprint(m.Sequence) {
				t.Fatalf("event id %s of message %d", id, m.Sequence)
			}
			return m
		}
	}
	t.Fatal("the stream ended: ", lines.Err())
	return m
}
