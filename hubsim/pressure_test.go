package hubsim

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestAClientThatAsksAndDoesNotReadIsNotReadFrom(t *testing.T) {
	for name, packet := range map[string][]byte{
		"pings":       pingreq,
		"unsubscribe": append([]byte{0xa2, 5, 0, 1, 0, 1}, 'x'),
		"twin":        publishPacket("$iothub/twin/GET/?$rid=1", 0, 0, ""),
	} {
		synctest.Test(t, func(t *testing.T) {
			h := newPipeHub(t, Config{})
			c := h.twinClient(t)
			written := make(chan int, 1)
			go func() {
				n := 0
				for n < 1<<20 {
					if _, err := c.conn.Write(bytes.Repeat(packet, 100)); err != nil {
						break
					}
					n += 100 * len(packet)
				}
				written <- n
			}()
			synctest.Wait()
			s := h.registry.find("dev1").connection()
			s.out.mu.Lock()
			waiting := len(s.out.buf)
			s.out.mu.Unlock()
			if waiting > maxUnwritten+1000 {
				t.Errorf("%s: %d bytes wait for the client", name, waiting)
			}
			<-c.over // after half a minute without a read
			if n := <-written; n >= 1<<20 {
				t.Errorf("%s: the hub read %d bytes", name, n)
			}
		})
	}
}

func TestAClientThatDoesNotReadCostsTheHubABoundedMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newPipeHub(t, Config{})
		c := h.methods(t, "dev1")
		payload := json.RawMessage(`"` + strings.Repeat("x", 100<<10) + `"`)
		var all []<-chan methodOutcome
		for range 50 {
			all = append(all, h.call(t, MethodCall{Device: "dev1", Name: "m", Payload: payload, ResponseTimeout: 5 * time.Second}))
		}
		synctest.Wait()
		s := h.registry.find("dev1").connection()
		s.out.mu.Lock()
		if n := len(s.out.buf); n > maxOffered+len(payload)+100 {
			t.Errorf("%d bytes wait for the client", n)
		}
		s.out.mu.Unlock()
		for _, done := range all {
			if o := <-done; codeOf(o.err) != 504101 {
				t.Errorf("%v", o.err)
			}
		}
		<-c.over // it does not read, so it is cut in the end
	})
}
