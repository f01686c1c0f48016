package hubsim

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

const (
	// maxRequest bounds the body of a REST request: a method payload and what is around it.
	maxRequest = 2 * maxMethodPayload
	// goodbye is how long requests may take to finish when the hub stops.
	goodbye = 500 * time.Millisecond
)

// endpoint answers a REST request: a value to be written as JSON, or an error.
type endpoint func(r *http.Request) (any, error)

// serveHTTPS serves REST and WebSocket until ctx ends.
func (h *Hub) serveHTTPS(ctx context.Context) error {
	return h.serve(ctx, tls.NewListener(h.https, h.tls), h.handler(ctx))
}

// serve serves HTTP until ctx ends and every connection is closed.
func (h *Hub) serve(ctx context.Context, l net.Listener, handler http.Handler) error {
	var conns sync.WaitGroup
	server := &http.Server{
		Handler:           handler,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ReadHeaderTimeout: firstPacketLimit, IdleTimeout: 2 * time.Minute,
		ErrorLog: log.New(h.log, "", 0),
		ConnState: func(_ net.Conn, state http.ConnState) {
			switch state {
			case http.StateNew:
				conns.Add(1)
			case http.StateClosed, http.StateHijacked:
				conns.Done()
			}
		},
	}
	done := make(chan struct{})
	defer context.AfterFunc(ctx, func() {
		defer close(done)
		limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), goodbye)
		defer cancel()
		if server.Shutdown(limit) != nil {
			_ = server.Close()
		}
	})()
	err := server.Serve(l)
	if !errors.Is(err, http.ErrServerClosed) {
		_ = server.Close()
		conns.Wait()
		return err
	}
	<-done
	conns.Wait()
	return nil
}

// handler routes the HTTPS side.
func (h *Hub) handler(ctx context.Context) http.Handler {
	mux := http.NewServeMux()
	h.routeAzure(mux)
	h.routeOwn(mux)
	h.routeProvisioning(mux)
	h.routeWeb(mux)
	mux.HandleFunc("GET /hubsim/messages/stream", h.streamMessages)
	mux.HandleFunc("GET /hubsim/ca.pem", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/x-pem-file")
		_, _ = w.Write(h.ca.pem)
	})
	mux.HandleFunc("/$iothub/websocket", func(w http.ResponseWriter, r *http.Request) { h.websocket(ctx, w, r) })
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "" {
			http.Error(w, "a WebSocket is at /$iothub/websocket", http.StatusBadRequest) // CON-9
			return
		}
		if r.URL.Path == "/" {
			http.Redirect(w, r, "/ui/", http.StatusSeeOther)
			return
		}
		http.NotFound(w, r)
	})
	return unblocked(mux)
}

// routeAzure serves the paths that Azure has too.
func (h *Hub) routeAzure(mux *http.ServeMux) {
	azure := func(pattern string, want right, f endpoint) {
		mux.Handle(pattern, h.answer(func(r *http.Request) (any, error) {
			if err := h.authorize(r, want); err != nil {
				return nil, err
			}
			if checkVersion(r.URL.Query().Get("api-version")) != nil {
				return nil, apiError(errVersion)
			}
			if want != serviceConnect {
				if err := h.queueRequest(r, registryOperation, 0); err != nil {
					return nil, err
				}
			}
			return f(r)
		}))
	}
	azure("POST /twins/{device}/methods", serviceConnect, h.postMethod)
	azure("POST /twins/{device}/modules/{module}/methods", serviceConnect, h.postMethod)
	for _, path := range []string{"/twins/{device}", "/twins/{device}/modules/{module}"} {
		azure("GET "+path, serviceConnect, h.getTwin)
		azure("PATCH "+path, serviceConnect, h.changeTwin)
		azure("PUT "+path, serviceConnect, h.changeTwin)
	}
	azure("GET /devices", registryRead, h.listEntries)
	azure("GET /devices/{$}", registryRead, h.listEntries) // as Microsoft's SDK for Node asks
	azure("POST /devices", registryWrite, h.postEntries)
	azure("GET /devices/{device}/modules", registryRead, h.listModules)
	for _, path := range []string{"/devices/{device}", "/devices/{device}/modules/{module}"} {
		azure("GET "+path, registryRead, h.getEntry)
		azure("PUT "+path, registryWrite, h.putEntry)
		azure("DELETE "+path, registryWrite, h.deleteEntry)
	}
	azure("POST /devices/query", serviceConnect, h.postQuery)
	azure("GET /statistics/devices", registryRead, h.countDevices)
	azure("GET /statistics/service", serviceConnect, h.countConnected)
	for _, path := range []string{"/jobs", "/jobs/{rest...}"} {
		azure(path, serviceConnect, absent("jobs"))
	}
	for _, path := range []string{"/configurations", "/configurations/{rest...}", "POST /devices/{device}/applyConfigurationContent"} {
		azure(path, serviceConnect, absent("configurations and Edge deployments"))
	}
	azure("/digitaltwins/{rest...}", serviceConnect, absent("digital twins"))
	azure("/messages/serviceBound/{rest...}", serviceConnect, absent("feedback and file notifications by lock"))
	azure("DELETE /devices/{device}/commands", serviceConnect, h.deleteCommands)
}

// routeOwn serves the paths that Azure does not have.
func (h *Hub) routeOwn(mux *http.ServeMux) {
	own := func(pattern string, want right, f endpoint) {
		mux.Handle(pattern, h.answer(func(r *http.Request) (any, error) {
			if err := h.authorize(r, want); err != nil {
				return nil, err
			}
			return f(r)
		}))
	}
	own("POST /hubsim/devices/{device}/messages", serviceConnect, h.postCommand)
	own("POST /hubsim/devices/{device}/modules/{module}/messages", serviceConnect, h.postCommand)
	own("GET /hubsim/devices/{device}/deadletters", serviceConnect, h.getDeadLetters)
	own("GET /hubsim/feedback", serviceConnect, h.getFeedback)
	own("GET /hubsim/messages", serviceConnect, h.getMessages)
	own("GET /hubsim/events", serviceConnect, h.getEvents)
	own("GET /hubsim/devices", serviceConnect, h.getDevices)
	own("PUT /hubsim/devices/{device}", registryWrite, h.putDevice)
	own("PUT /hubsim/devices/{device}/modules/{module}", registryWrite, h.putDevice)
	own("DELETE /hubsim/devices/{device}", registryWrite, h.deleteDevice)
	own("DELETE /hubsim/devices/{device}/modules/{module}", registryWrite, h.deleteDevice)
	own("POST /hubsim/authorities", registryWrite, h.postAuthority)
	own("GET /hubsim/faults", serviceConnect, h.getFaults)
	own("GET /hubsim/provisioning", registryRead, h.getProvisioning)
	own("POST /hubsim/linkedhubs", registryWrite, h.postLinkedHub)
	own("GET /hubsim/policies", registryWrite, func(*http.Request) (any, error) { return h.registry.policies, nil })
	own("POST /hubsim/faults", serviceConnect, h.postFaults)
	own("DELETE /hubsim/faults", serviceConnect, h.deleteFaults)
}

// queueRequest makes a request wait while such operations come faster than the hub's limit (THR-1, THR-21).
func (h *Hub) queueRequest(r *http.Request, op operation, size int) error {
	wait, err := h.limits.take(op, size, time.Now())
	if err != nil || wait <= 0 {
		return err
	}
	select {
	case <-time.After(wait):
		return nil
	case <-r.Context().Done():
		return r.Context().Err()
	}
}

// unblocked cuts the reads and writes of a request short when the server stops.
func unblocked(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer context.AfterFunc(r.Context(), func() {
			control := http.NewResponseController(w)
			_ = control.SetReadDeadline(time.Now())
			_ = control.SetWriteDeadline(time.Now())
		})()
		next.ServeHTTP(w, r)
	})
}

// reply is an answer that is not just a body with status 200.
type reply struct {
	status int // 0 is 200
	header map[string]string
	body   any // nil is none
}

// answer writes what an endpoint returns: a reply, or the body of one.
func (h *Hub) answer(f endpoint) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, maxRequest)
		value, err := f(r)
		if err != nil {
			h.writeError(w, r, err)
			return
		}
		out, ok := value.(reply)
		if !ok {
			out.body = value
		}
		var body []byte
		if out.body != nil {
			if body, err = json.Marshal(out.body); err != nil {
				h.writeError(w, r, err)
				return
			}
			w.Header().Set("Content-Type", "application/json; charset=utf-8")
		}
		for name, text := range out.header {
			w.Header().Set(name, text)
		}
		w.WriteHeader(cmp.Or(out.status, http.StatusOK))
		_, _ = w.Write(body)
	})
}

// writeError writes an error in the form of SVC-5.
func (h *Hub) writeError(w http.ResponseWriter, r *http.Request, err error) {
	var bad *Error
	if !errors.As(err, &bad) {
		bad = apiError(errInternal).because(err.Error())
	}
	h.log.Warn().Int("status", bad.Status).Msgf("%s %s: %s", r.Method, r.URL.Path, strings.TrimPrefix(bad.Error(), "hubsim: "))
	body, err := bad.body(time.Now())
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.Header().Set("iothub-errorcode", bad.Name)
	w.WriteHeader(bad.Status)
	_, _ = w.Write(body)
}

// authorize wants a token of a policy that grants want, about the hub or the path (SVC-2, SAS-12). A
// typed nil must not leave it, hence error.
func (h *Hub) authorize(r *http.Request, want right) error {
	refused := func(why string) error { return apiError(errUnauthorized).because("Unauthorized: " + why) }
	text := r.Header.Get("Authorization")
	if text == "" {
		return refused("no Authorization header")
	}
	t, err := parseToken(text)
	if err != nil {
		return refused("not a shared access signature: " + err.Error())
	}
	if t.policy == "" {
		return refused("the service side wants the token of a shared access policy, with skn")
	}
	if err := h.checkPolicy(t, want); err != nil {
		return refused(err.Error())
	}
	if path := strings.TrimPrefix(r.URL.Path, "/"); !t.covers(h.cfg.HostName, path) {
		return refused(fmt.Sprintf("sr %q does not cover %s/%s", t.resource, h.cfg.HostName, path))
	}
	if !time.Now().Before(t.expiry) {
		return refused("the token expired")
	}
	return nil
}

// readBody reads a request's body within the limit that answer sets.
func readBody(r *http.Request) ([]byte, error) {
	text, err := io.ReadAll(r.Body)
	var tooLong *http.MaxBytesError
	if errors.As(err, &tooLong) {
		return nil, apiError(errTooLarge).because(fmt.Sprintf("a body of more than %d bytes", tooLong.Limit))
	}
	return text, err
}

// readSetting is readJSON for the simulator's own paths, where a misspelt field is a mistake, not a wish of a
// later version.
func readSetting(r *http.Request, into any) error {
	text, err := readBody(r)
	if err != nil || len(text) == 0 {
		return err
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(into); err != nil {
		return wrongBody(err)
	}
	return nil
}

// wrongBody says what is wrong with a request's JSON, in the caller's words instead of Go's.
func wrongBody(err error) error {
	var kind *json.UnmarshalTypeError
	if errors.As(err, &kind) && kind.Field != "" {
		return apiError(errArgument).because(fmt.Sprintf("%s cannot be a %s", kind.Field, kind.Value))
	}
	return apiError(errArgument).because("the body is not what this call takes: " + strings.TrimPrefix(err.Error(), "json: "))
}

// readJSON decodes a request's body; an empty one changes nothing.
func readJSON(r *http.Request, into any) error {
	text, err := readBody(r)
	if err != nil {
		return err
	}
	if len(text) == 0 {
		return nil
	}
	if err := json.Unmarshal(text, into); err != nil {
		return wrongBody(err)
	}
	return nil
}
