package control

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// serve answers /status on path until the test ends.
func serve(t *testing.T, path string) {
	t.Helper()
	listener, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) {
		WriteJSON(w, Status{Hub: "contoso", PID: 7, Identities: []IdentityStatus{{Identity: "d1", Connected: true}}})
	})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- Serve(ctx, listener, mux) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

func TestTheDaemonAnswersOnItsSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "run", SocketName)
	serve(t, path)
	var status Status
	if err := NewClient(path).Get(t.Context(), "/status", &status); err != nil {
		t.Fatal(err)
	}
	if status.Hub != "contoso" || len(status.Identities) != 1 || !status.Identities[0].Connected {
		t.Errorf("got %+v", status)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o660 {
		t.Errorf("mode of the socket: %v, %v", info.Mode(), err)
	}
	if err := NewClient(path).Get(t.Context(), "/nothing", &status); err == nil || !strings.Contains(err.Error(), "404") {
		t.Errorf("an unknown resource: %v", err)
	}
}

func TestNoDaemonIsSaidInOneSentence(t *testing.T) {
	dir := t.TempDir()
	dead := filepath.Join(dir, "dead.sock")
	listener, err := net.Listen("unix", dead)
	if err != nil {
		t.Fatal(err)
	}
	listener.(*net.UnixListener).SetUnlinkOnClose(false)
	listener.Close()
	for _, path := range []string{filepath.Join(dir, "absent.sock"), dead} {
		if err := NewClient(path).Get(t.Context(), "/status", &Status{}); !errors.Is(err, ErrNotRunning) {
			t.Errorf("%s: %v, want ErrNotRunning", path, err)
		}
	}
}

func TestALivingDaemonKeepsItsSocketAndADeadOnesIsReplaced(t *testing.T) {
	path := filepath.Join(t.TempDir(), SocketName)
	stale, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	stale.(*net.UnixListener).SetUnlinkOnClose(false)
	stale.Close()
	serve(t, path)
	if _, err := Listen(path); err == nil || !strings.Contains(err.Error(), "another gateway is running") {
		t.Errorf("a second daemon: %v", err)
	}
}

func TestAFileThatIsNoSocketIsNotDeleted(t *testing.T) {
	path := filepath.Join(t.TempDir(), SocketName)
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(path); err == nil {
		t.Error("listened on top of a file")
	}
	if text, err := os.ReadFile(path); err != nil || string(text) != "precious" {
		t.Errorf("the file is gone: %v", err)
	}
}

func TestServingEndsWithItsContextEvenInMidRequest(t *testing.T) {
	path := filepath.Join(t.TempDir(), SocketName)
	listener, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	asked := make(chan struct{})
	handler := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		close(asked)
		<-r.Context().Done()
	})
	ended := make(chan error, 1)
	go func() { ended <- Serve(ctx, listener, handler) }()
	go func() { _ = NewClient(path).Get(ctx, "/status", &Status{}) }()
	<-asked
	cancel()
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("still serving")
	}
}
