// Package control is how the running daemon is asked and told: HTTP with JSON on a unix socket in its
// runtime directory, for the one machine and for those whom the directory's mode lets in. It promises
// that a socket left behind by a dead daemon is replaced and that a living one is never robbed of its.
package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// SocketName is the socket's name in the runtime directory.
const SocketName = "control.sock"

// ErrNotRunning is wrapped by Get's error when no daemon listens on the socket.
var ErrNotRunning = errors.New("no gateway is running here")

// Listen makes the socket at path, mode 0660. It refuses if a living daemon holds it.
func Listen(path string) (net.Listener, error) {
	if conn, err := net.DialTimeout("unix", path, time.Second); err == nil {
		_ = conn.Close()
		return nil, fmt.Errorf("control socket %s: another gateway is running on it; stop that one or give this one its own --runtime-dir", path)
	}
	if info, err := os.Lstat(path); err == nil && info.Mode().Type() == fs.ModeSocket {
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("control socket: %w", err)
		}
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	listener, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	if err := os.Chmod(path, 0o660); err != nil {
		_ = listener.Close()
		return nil, fmt.Errorf("control socket: %w", err)
	}
	return listener, nil
}

// Serve answers requests on listener, the socket's or another, until ctx ends.
func Serve(ctx context.Context, listener net.Listener, handler http.Handler) error {
	server := &http.Server{
		Handler: handler, ReadHeaderTimeout: 5 * time.Second, WriteTimeout: 30 * time.Second,
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// refused is the status of an answer whose text says why the daemon did not do what it was asked.
const refused = http.StatusConflict

// Refuse answers a request with the reason why it was not done.
func Refuse(w http.ResponseWriter, reason error) { http.Error(w, reason.Error(), refused) }

// WriteJSON answers a request with v.
func WriteJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	// An error here is the client's going away; there is nobody left to tell.
	_ = json.NewEncoder(w).Encode(v)
}

// Client asks the daemon behind one socket.
type Client struct {
	path string
	http http.Client
}

// NewClient makes a client of the socket at path; it connects with each request.
func NewClient(path string) *Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", path)
	}
	return &Client{path: path, http: http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}}
}

// Get asks for resource ("/status") and decodes the answer into v. The error wraps ErrNotRunning if
// nobody listens.
func (c *Client) Get(ctx context.Context, resource string, v any) error {
	answer, err := c.do(ctx, http.MethodGet, resource, nil)
	if err != nil {
		return err
	}
	return decode(answer, c.path+resource, v)
}

// decode reads the answer to a request into v and closes it.
func decode(answer *http.Response, from string, v any) error {
	defer answer.Body.Close()
	if v == nil {
		return nil
	}
	if err := json.NewDecoder(answer.Body).Decode(v); err != nil {
		return fmt.Errorf("%s: %w", from, err)
	}
	return nil
}

// do asks once and returns an answer of status 200. The daemon's refusal is an error in its words.
func (c *Client) do(ctx context.Context, method, resource string, body []byte) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, method, "http://gateway"+resource, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	answer, err := c.http.Do(request)
	if err != nil {
		switch {
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
			return nil, fmt.Errorf("%s: %w", c.path, ErrNotRunning)
		case errors.Is(err, fs.ErrPermission):
			return nil, fmt.Errorf("%s: %w; ask as root or as the gateway's user", c.path, fs.ErrPermission)
		}
		return nil, fmt.Errorf("%s: %w", c.path, err)
	}
	if answer.StatusCode == http.StatusOK {
		return answer, nil
	}
	defer answer.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(answer.Body, 4096))
	if answer.StatusCode == refused {
		return nil, errors.New(strings.TrimSpace(string(text)))
	}
	return nil, fmt.Errorf("%s%s: %s: %s", c.path, resource, answer.Status, bytes.TrimSpace(text))
}
