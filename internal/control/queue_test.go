package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
)

// serveMux answers with mux until the test ends.
func serveMux(t *testing.T, mux *http.ServeMux) *Client {
	t.Helper()
	path := filepath.Join(t.TempDir(), SocketName)
	listener, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- Serve(ctx, listener, mux) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return NewClient(path)
}

func TestAStreamArrivesWholeAndSaysWhyItEndsEarly(t *testing.T) {
	mux := http.NewServeMux()
	const many = 10_000
	mux.HandleFunc("GET /good", func(w http.ResponseWriter, _ *http.Request) {
		WriteStream(w, func(send func(any) error) error {
			for i := range many {
				if err := send(i); err != nil {
					return err
				}
			}
			return nil
		})
	})
	mux.HandleFunc("GET /bad", func(w http.ResponseWriter, _ *http.Request) {
		WriteStream(w, func(send func(any) error) error {
			return errors.Join(send("one"), errors.New("sequence 2 is damaged"))
		})
	})
	mux.HandleFunc("GET /torn", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, `{"value":1}`+"\n"+`{"val`)
	})
	client := serveMux(t, mux)
	count := func(resource string) (n int, err error) {
		err = client.Stream(t.Context(), resource, func(v json.RawMessage) error {
			if resource == "/good" && string(v) != fmt.Sprint(n) {
				return fmt.Errorf("value %d is %s", n, v)
			}
			n++
			return nil
		})
		return n, err
	}
	if n, err := count("/good"); n != many || err != nil {
		t.Errorf("%d values, %v", n, err)
	}
	if n, err := count("/bad"); n != 1 || err == nil || err.Error() != "sequence 2 is damaged" {
		t.Errorf("%d values, %v", n, err)
	}
	if n, err := count("/torn"); n != 1 || err == nil || !strings.Contains(err.Error(), "too early") {
		t.Errorf("%d values, %v", n, err)
	}
	stop := errors.New("enough")
	if err := client.Stream(t.Context(), "/good", func(json.RawMessage) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("the caller's own error became %v", err)
	}
}

func TestARefusalIsSaidInTheDaemonsWords(t *testing.T) {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /double", func(w http.ResponseWriter, r *http.Request) {
		var n int
		if err := json.NewDecoder(r.Body).Decode(&n); err != nil || n > 4 {
			Refuse(w, errors.New("that is too much"))
			return
		}
		WriteJSON(w, 2*n)
	})
	client := serveMux(t, mux)
	var twice int
	if err := client.Post(t.Context(), "/double", 4, &twice); err != nil || twice != 8 {
		t.Errorf("%d, %v", twice, err)
	}
	if err := client.Post(t.Context(), "/double", 5, nil); err == nil || err.Error() != "that is too much" {
		t.Errorf("%v", err)
	}
	if err := client.Post(t.Context(), "/nothing", 5, nil); err == nil || !strings.Contains(err.Error(), "404") {
		t.Errorf("%v", err)
	}
}

func TestABodyThatIsNoJSONIsShownAsText(t *testing.T) {
	for body, want := range map[string]string{`{"a":1}`: `{"a":1}`, `[1]`: `[1]`, "21.5 C": `"21.5 C"`, "\xff": `"\ufffd"`, "": `""`} {
		if got := string(JSONBody([]byte(body))); got != want {
			t.Errorf("%q: %s, want %s", body, got, want)
		}
	}
}
