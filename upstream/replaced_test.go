package upstream

import (
	"encoding/base64"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"iothub-gateway/identity"
)

// keyFile is a device key that a test replaces.
type keyFile struct {
	mu   sync.Mutex
	text string // guarded by mu; "": the file is empty
}

func (f *keyFile) put(text string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.text = text
}

// credential proves d with the key for an hour at a time.
func (f *keyFile) credential() Credential {
	return identity.NewKeySAS("h", "d", identity.Key{Read: func() (identity.Secret, error) {
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.text == "" {
			return identity.Secret{}, errors.New("the file is empty")
		}
		return identity.NewSecret(f.text), nil
	}}, time.Hour)
}

func TestAKeyThatIsReplacedIsTakenUpOnceItStandsStillAndABrokenOneEndsNoConnection(t *testing.T) {
	var key keyFile
	key.put("b2xk")
	bubble(t, Config{}, []Member{member("d", key.credential())}, nil, func(hub *pipeHub, _ *Pool) {
		connects := func(want int, when string) {
			t.Helper()
			if n := len(hub.now().connects); n != want {
				t.Fatalf("%d connections %s, want %d", n, when, want)
			}
		}
		later(40 * time.Minute)
		connects(1, "although nothing was replaced")
		key.put("")
		later(time.Hour)
		connects(1, "while the file is empty: the present one is to stand")
		key.put("bmV3")
		later(watchEvery + replacedLook)
		connects(2, "after the key was replaced")
		if how := hub.now().ended[0]; how != "DISCONNECT" {
			t.Errorf("the first connection ended with %s", how)
		}
		for i := range 200 { // never the same when it is looked at again
			key.put(base64.StdEncoding.EncodeToString([]byte{byte(i), 1}))
			later(replacedLook / 2)
		}
		connects(2, "while the file was being written")
		later(watchEvery + replacedLook)
		connects(3, "once it was")
		later(time.Hour)
		connects(4, "an hour later: the token is renewed in time")
	})
}

func TestAKeyThatIsMissingIsTakenWithinAMinuteOfComing(t *testing.T) {
	var key keyFile
	key.put("b2xk")
	bubble(t, Config{}, []Member{member("d", key.credential())}, nil, func(hub *pipeHub, pool *Pool) {
		key.put("")
		hub.set(func() { hub.present.Close() })
		later(24 * time.Hour)
		if s := pool.Stats()[0]; s.State != StateOffline || !strings.Contains(s.LastError, "the file is empty") || len(hub.now().connects) != 1 {
			t.Fatalf("%+v, %d connections", s, len(hub.now().connects))
		}
		key.put("bmV3")
		later(watchEvery)
		if s := pool.Stats()[0]; !s.Connected {
			t.Errorf("%+v", s)
		}
	})
}

func TestAReplacedKeyIsTriedWithinAMinuteHoweverOftenTheOldOneWasRefused(t *testing.T) {
	var key keyFile
	key.put("b2xk")
	bubble(t, Config{}, []Member{member("d", key.credential())}, nil, func(hub *pipeHub, pool *Pool) {
		hub.set(func() { hub.code = refusedNotAuth; hub.present.Close() })
		later(24 * time.Hour)
		before := len(hub.now().connects)
		if s := pool.Stats()[0]; s.State != StateRefused || before > 24*60 {
			t.Fatalf("%s after %d attempts", s.State, before)
		}
		hub.set(func() { hub.code = 0 })
		key.put("bmV3")
		later(watchEvery)
		if s := pool.Stats()[0]; !s.Connected {
			t.Errorf("%s, %d attempts: %s", s.State, len(hub.now().connects)-before, s.LastError)
		}
	})
}
