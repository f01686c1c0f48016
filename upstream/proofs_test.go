package upstream

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"

	gateway "iothub-gateway"
	"iothub-gateway/identity"
)

func TestEachIdentityRenewsInItsOwnTimeAndBefore85PercentOfItsProof(t *testing.T) {
	const identities, life, span = 20, time.Hour, 8 * time.Hour
	var members []Member
	for i := range identities {
		id := gateway.IdentityID(fmt.Sprintf("d%d", i))
		members = append(members, member(id, holdsFor(id, life)))
	}
	bubble(t, Config{ConnectRate: 1000}, members, nil, func(hub *pipeHub, pool *Pool) {
		later(span)
		last, gaps, busiest := map[string]time.Time{}, 0, map[int64]int{}
		for i, at := range hub.now().connects {
			user := hub.now().users[i]
			if before, again := last[user]; again {
				gaps++
				if held := at.Sub(before); held < 75*life/100 || held > 85*life/100+time.Second {
					t.Errorf("%s renewed after %v", user, held)
				}
				busiest[at.Unix()/60]++
			}
			last[user] = at
		}
		if want := identities * int(span.Minutes()) / 51; gaps < want-identities {
			t.Errorf("%d renewals, want about %d", gaps, want)
		}
		for minute, n := range busiest {
			if n > identities/2 {
				t.Errorf("%d of %d renew in minute %d", n, identities, minute)
			}
		}
		for _, end := range hub.now().ended {
			if end != "DISCONNECT" {
				t.Fatal("a connection was not ended by DISCONNECT")
			}
		}
	})
}

func TestRefusedCredentialsAreTriedMoreAndMoreSlowlyAndForEver(t *testing.T) {
	bubble(t, Config{}, []Member{member("d", holdsFor("d", time.Hour))}, nil, func(hub *pipeHub, pool *Pool) {
		hub.set(func() { hub.code = packets.ErrRefusedNotAuthorised; hub.present.Close() })
		later(48 * time.Hour)
		attempts := hub.now().connects[1:]
		longest := time.Duration(0)
		for i := 1; i < len(attempts); i++ {
			longest = max(longest, attempts[i].Sub(attempts[i-1]))
		}
		if limit := refusalFactor * DefaultRetryMost; longest > limit+time.Second || longest < limit/2 {
			t.Errorf("the longest of %d pauses is %v, want up to %v", len(attempts), longest, limit)
		}
		if n := len(attempts); n < 48*4 || n > 48*4*4 {
			t.Errorf("%d attempts in two days", n)
		}
		if s := pool.Stats()[0]; s.State != StateRefused || s.Connected {
			t.Errorf("%+v", s)
		}
		hub.set(func() { hub.code = packets.Accepted })
		later(refusalFactor * DefaultRetryMost)
		if s := pool.Stats()[0]; !s.Connected || s.LastError != "" {
			t.Errorf("the credentials are good again: %+v", s)
		}
	})
}

func TestAttemptsTellTheCredentialHowOftenTheHubRefused(t *testing.T) {
	var mu sync.Mutex
	var seen []identity.Attempt
	attempts := func() []identity.Attempt {
		mu.Lock()
		defer mu.Unlock()
		return seen
	}
	good := holdsFor("d", time.Hour)
	c := proofs(func(a identity.Attempt) (identity.Login, error) {
		mu.Lock()
		defer mu.Unlock()
		seen = append(seen, a)
		if a.Refused == 2 && a.Failed == 2 {
			return identity.Login{}, errors.New("the service is away")
		}
		return good(a)
	})
	bubble(t, Config{RetryMost: time.Second}, []Member{member("d", c)}, nil, func(hub *pipeHub, pool *Pool) {
		hub.set(func() { hub.code = packets.ErrRefusedNotAuthorised; hub.present.Close() })
		for len(attempts()) < 6 {
			later(time.Second)
		}
		hub.set(func() { hub.code = packets.Accepted })
		later(time.Minute)
		hub.set(func() { hub.present.Close() })
		later(time.Minute)
		seen := attempts()
		for i, want := range [][2]int{{0, 0}, {0, 0}, {1, 1}, {2, 2}, {2, 3}, {3, 4}} {
			if got := [2]int{seen[i].Refused, seen[i].Failed}; got != want {
				t.Errorf("attempt %d: %v, want %v", i, got, want)
			}
		}
		if last := seen[len(seen)-1]; last.Refused != 0 || last.Failed != 0 {
			t.Errorf("after a connection: %+v", last)
		}
	})
}

func TestAProofThatIsReplacedIsTakenUpWithinAMinuteAndNoOtherReconnects(t *testing.T) {
	ends := time.Now().Add(1000 * time.Hour)
	var broken error
	var mu sync.Mutex // guards both
	set := func(e time.Time, err error) {
		mu.Lock()
		defer mu.Unlock()
		ends, broken = e, err
	}
	c := proofs(func(identity.Attempt) (identity.Login, error) {
		mu.Lock()
		defer mu.Unlock()
		return identity.Login{Hub: "h", ClientID: "d", Username: "h/d", Expires: ends, Watch: true}, broken
	})
	bubble(t, Config{}, []Member{member("d", c)}, nil, func(hub *pipeHub, pool *Pool) {
		later(24 * time.Hour)
		if n := len(hub.now().connects); n != 1 {
			t.Errorf("%d connections although nothing was replaced", n)
		}
		set(ends, errors.New("half written"))
		later(time.Hour)
		set(ends, nil)
		if n := len(hub.now().connects); n != 1 {
			t.Errorf("%d connections although the next proof is not good", n)
		}
		set(ends.Add(time.Hour), nil)
		later(watchEvery + replacedLook)
		if n := len(hub.now().connects); n != 2 || hub.now().ended[0] != "DISCONNECT" {
			t.Errorf("%d connections after the proof was replaced", n)
		}
		if s := pool.Stats()[0]; !s.Expires.Equal(ends) || s.Hub != "h" || s.Account != "d" {
			t.Errorf("%+v", s)
		}
	})
}
