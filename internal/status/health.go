// Package status tells people and machines how the daemon is doing: /healthz for probes. It promises
// that an answer never waits for anything slow, and that it holds no secret.
package status

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
)

// State is the whole of the daemon in one word.
type State string

// The states.
const (
	Starting State = "starting"
	Running  State = "running"
	// Degraded: it works, but something is not as it should be; the reasons say what.
	Degraded State = "degraded"
	// Stuck: a part that must never stand still does. A supervisor should restart the daemon.
	Stuck State = "stuck"
)

// Health is the body of GET /healthz.
type Health struct {
	State   State    `json:"state"`
	Reasons []string `json:"reasons,omitempty"` // sentences for a person
}

// Code is the HTTP status of the answer: 200 while work gets done, 503 otherwise.
func (h Health) Code() int {
	if h.State == Running || h.State == Degraded {
		return http.StatusOK
	}
	return http.StatusServiceUnavailable
}

// Handler answers GET /healthz with what ask returns.
func Handler(ask func() Health) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		h := ask()
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-store")
		w.WriteHeader(h.Code())
		// An error here is the client's going away; there is nobody left to tell.
		_ = json.NewEncoder(w).Encode(h)
	})
	return mux
}

// Listen opens the page's address, such as 127.0.0.1:8080.
func Listen(address string) (net.Listener, error) {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("health page: %w; choose another address with --health, or --health off", err)
	}
	return listener, nil
}
