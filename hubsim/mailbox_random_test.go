package hubsim

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"
)

// forgetful is a device that loses connections, acknowledges late or not at all, and remembers what it saw.
type forgetful struct {
	h      *pipeHub
	client *pipeClient

	mu      sync.Mutex // guards the fields below
	unacked []uint16   // of this connection, in the order of arrival
	number  map[uint16]int
	seen    map[int]bool
	acked   map[int]bool
	newest  int
	wrong   []string
}

// connect begins a connection and reads it to its end.
func (f *forgetful) connect(t *testing.T) {
	synctest.Wait() // the reader of the last one has ended
	f.mu.Lock()
	f.unacked = nil
	f.mu.Unlock()
	f.client, _ = f.h.session(t, false)
	conn := f.client.conn
	go func() {
		for {
			p, err := packets.ReadPacket(conn)
			if err != nil {
				return
			}
			if command, ok := p.(*packets.PublishPacket); ok {
				f.receive(command)
			}
		}
	}()
	synctest.Wait()
}

func (f *forgetful) receive(p *packets.PublishPacket) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n, _ := strconv.Atoi(string(p.Payload))
	if p.Dup != f.seen[n] {
		f.wrong = append(f.wrong, fmt.Sprintf("message %d has DUP %v, seen before: %v", n, p.Dup, f.seen[n]))
	}
	if !f.seen[n] && n < f.newest {
		f.wrong = append(f.wrong, fmt.Sprintf("message %d came for the first time behind %d", n, f.newest))
	}
	f.newest, f.seen[n] = max(f.newest, n), true
	f.number[p.MessageID] = n
	f.unacked = append(f.unacked, p.MessageID)
}

// ack acknowledges what came first, and tells whether there was something.
func (f *forgetful) ack() bool {
	f.mu.Lock()
	if len(f.unacked) == 0 {
		f.mu.Unlock()
		return false
	}
	packet := f.unacked[0]
	f.unacked = f.unacked[1:]
	f.acked[f.number[packet]] = true
	f.mu.Unlock()
	f.client.ack(packet)
	return true
}

// step does one thing at random.
func (f *forgetful) step(t *testing.T, random *rand.Rand, sent *int) {
	connected := f.client != nil
	switch random.IntN(6) {
	case 0, 1:
		if f.h.registry.find("dev1").waiting() < maxPending {
			*sent++
			f.h.command(t, fmt.Sprint(*sent))
			synctest.Wait()
		}
	case 2, 3:
		if connected {
			f.ack()
		}
	case 4:
		pass(time.Duration(random.IntN(90)) * time.Second)
	case 5:
		if connected {
			f.client.leave(random.IntN(2) == 0)
			f.client = nil
		} else {
			f.connect(t)
		}
	}
}

func TestEveryCommandHasOneOutcomeWhateverADeviceDoes(t *testing.T) {
	for seed := range uint64(60) {
		bubble(t, Config{C2D: C2D{MaxDeliveryCount: 5, TimeToLive: 20 * time.Minute}}, func(t *testing.T, h *pipeHub) {
			random := rand.New(rand.NewPCG(seed, 0))
			f := &forgetful{h: h, number: map[uint16]int{}, seen: map[int]bool{}, acked: map[int]bool{}}
			first, _ := h.session(t, false)
			first.subscribe(1, commands)
			first.leave(true)
			sent := 0
			for range 150 {
				f.step(t, random, &sent)
			}
			if f.client == nil {
				f.connect(t)
			}
			for f.ack() {
				synctest.Wait()
			}
			pass(time.Hour) // whatever an acknowledgement out of order left over
			f.mu.Lock()
			defer f.mu.Unlock()
			for _, wrong := range f.wrong {
				t.Errorf("seed %d: %s", seed, wrong)
			}
			outcomes := map[string]int{}
			for _, line := range h.outcomes() {
				outcomes[line]++
			}
			f.checkOutcomes(t, seed, sent, outcomes)
		})
	}
}

func (f *forgetful) checkOutcomes(t *testing.T, seed uint64, sent int, outcomes map[string]int) {
	total := 0
	for _, n := range outcomes {
		total += n
	}
	if total != sent {
		t.Errorf("seed %d: %d messages, %d outcomes", seed, sent, total)
	}
	for n := 1; n <= sent; n++ {
		good, late, often := outcomes[fmt.Sprint(n, "=Success")], outcomes[fmt.Sprint(n, "=Expired")], outcomes[fmt.Sprint(n, "=DeliveryCountExceeded")]
		if good+late+often != 1 || good == 1 && !f.acked[n] || often == 1 && !f.seen[n] {
			t.Errorf("seed %d: message %d: success %d, expired %d, too often %d; acknowledged %v", seed, n, good, late, often, f.acked[n])
		}
	}
}
