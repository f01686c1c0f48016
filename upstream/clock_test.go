package upstream

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"

	"iothub-gateway/identity"
	"iothub-gateway/internal/dial"
)

func TestAWrongClockIsSaidAndHealsWithoutARestart(t *testing.T) {
	for name, off := range map[string]time.Duration{"behind": 2 * time.Hour, "ahead": -3 * time.Hour} {
		var mu sync.Mutex
		wrong := off
		var asked atomic.Int32
		cfg := Config{
			Now: func() time.Time {
				mu.Lock()
				defer mu.Unlock()
				return time.Now().Add(-wrong)
			},
			ServerTime: func(_ context.Context, of identity.Login) (time.Time, error) {
				mu.Lock()
				defer mu.Unlock()
				asked.Add(1)
				if of.Hub != "h" {
					return time.Time{}, errors.New("another hub was asked")
				}
				return time.Now().Round(time.Second), nil
			},
		}
		members := []Member{member("a", holdsFor("a", time.Hour)), member("b", holdsFor("b", time.Hour))}
		bubble(t, cfg, members, nil, func(hub *pipeHub, pool *Pool) {
			hub.set(func() { hub.code = packets.ErrRefusedNotAuthorised; hub.present.Close() })
			pool.links[0].lose(t)
			pool.links[1].lose(t)
			later(30 * time.Minute)
			for _, s := range pool.Stats() {
				if !strings.Contains(s.LastError, "this machine's clock is "+off.Abs().String()+" "+name) {
					t.Errorf("%s: %+v", name, s)
				}
			}
			if n := len(hub.now().connects); asked.Load() == 0 || asked.Load() > 35 || n > 300 {
				t.Errorf("%s: the time was asked for %d times, %d attempts", name, asked.Load(), n)
			}
			mu.Lock()
			wrong = 0 // somebody sets the clock
			mu.Unlock()
			hub.set(func() { hub.code = packets.Accepted })
			later(2 * clockLook)
			for _, s := range pool.Stats() {
				if !s.Connected || s.LastError != "" {
					t.Errorf("%s: not connected soon after the clock was set: %+v", name, s)
				}
			}
		})
	}
}

func (l *link) lose(t *testing.T) {
	t.Helper()
	if s := l.current.Load(); s != nil {
		s.lose(errors.New("the test ends it"))
	}
}

func TestWithoutEvidenceTheClockIsNotBlamed(t *testing.T) {
	refused := &refusedError{code: packets.ErrRefusedNotAuthorised}
	for name, ask := range map[string]func(context.Context, identity.Login) (time.Time, error){
		"nobody to ask": nil,
		"no answer":     func(context.Context, identity.Login) (time.Time, error) { return time.Time{}, errors.New("away") },
		"no difference": func(context.Context, identity.Login) (time.Time, error) { return time.Now().Add(clockSlack / 2), nil },
	} {
		clocks := newHubClocks(Config{ServerTime: ask, Now: time.Now})
		if err := clocks.explain(t.Context(), identity.Login{}, refused); err != refused || aboutClock(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, err := range []error{dial.ErrClock, identity.ErrNotYetValid} {
		if !aboutClock(fmt.Errorf("x: %w", err)) {
			t.Errorf("%v is not about the clock", err)
		}
	}
}
