package hubsim

import (
	"net"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// stubborn is a connection whose session ends once release closes.
type stubborn struct {
	net.Conn
	release chan struct{}
}

func (s stubborn) Close() error {
	<-s.release
	return s.Conn.Close()
}

// names lists the registry.
func (h *pipeHub) names() (all []string) {
	for _, id := range h.registry.list() {
		all = append(all, id.name())
	}
	return all
}

func TestWhatIsRegisteredWhileItsDeviceIsDeletedIsTheSameAfterARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "state.db")
		h := openPipeHub(t, Config{}, path)
		release := make(chan struct{})
		h.tap = func(conn net.Conn) net.Conn { return stubborn{conn, release} }
		h.connect(t, "dev1", 600)
		deleted := make(chan error, 1)
		go func() { deleted <- h.Unregister("dev1", "") }()
		synctest.Wait() // the deletion waits for the connection to end
		again := h.dial(t)
		again.send(encode(h.connectPacket(t, "dev1", time.Hour)))
		again.expect([]byte{0x20, 2, 0, 5})
		for _, module := range []string{"", "mod1"} {
			if _, err := h.Register("dev1", module); err != nil {
				t.Fatal(err)
			}
		}
		close(release)
		if err := <-deleted; err != nil {
			t.Fatal(err)
		}
		if _, err := h.Register("dev2", ""); err != nil {
			t.Fatal(err)
		}
		before := h.names()
		h = h.reopen(t, path)
		if diff := cmp.Diff(before, h.names()); diff != "" {
			t.Errorf("registered before and after a restart (-before +after):\n%s", diff)
		}
		if err := h.state.close(); err != nil {
			t.Fatal(err)
		}
	})
}
