package hubsim_test

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

const (
	soakInput = 1 << 10         // bytes that a hostile connection sends, at most
	soakBytes = 2 << 20         // that the process may allocate meanwhile
	soakDelay = 2 * time.Second // that a neighbour's PUBACK may take
)

func TestRandomPacketsNeitherCrashNorBloatNorDelay(t *testing.T) {
	soak(t, 3*time.Second, uint64(time.Now().UnixNano()))
}

// soak opens one hostile connection after the other and sends what the seed says, mostly as a device that
// was let in. Meanwhile a neighbour publishes. The hub runs in this process: a panic ends the test.
func soak(t *testing.T, d time.Duration, seed uint64) {
	t.Logf("SEED=%d", seed)
	cfg := hubConfig()
	cfg.MaxStored = 8 << 20
	hub := startHub(t, cfg)
	stop := make(chan struct{})
	delays := make(chan []time.Duration, 1)
	go func() { delays <- neighbour(t, hub, stop) }()
	a := newAttacker(t, hub, seed)
	most := uint64(0)
	inputs := 0
	for end := time.Now().Add(d); time.Now().Before(end) && !t.Failed(); inputs++ {
		input := a.input()
		if got := a.allocates(input); got > soakBytes {
			t.Errorf("%d bytes were allocated for %d bytes:\n%s", got, len(input), hex.Dump(input))
		} else {
			most = max(most, got)
		}
	}
	close(stop)
	all := <-delays
	if len(all) == 0 {
		t.Fatal("the neighbour got nothing through")
	}
	slices.Sort(all)
	t.Logf("%d connections; at most %d KB allocated for one, all of the process counted", inputs, most>>10)
	t.Logf("%d PUBACKs of a neighbour: median %v, 99th percentile %v, slowest %v; the bound is %v",
		len(all), all[len(all)/2], all[len(all)*99/100], all[len(all)-1], soakDelay)
	if slowest := all[len(all)-1]; slowest > soakDelay {
		t.Errorf("a PUBACK took %v", slowest)
	}
}

// neighbour publishes every 10 ms until stop closes, and returns how long each PUBACK took.
func neighbour(t *testing.T, hub *testHub, stop <-chan struct{}) (delays []time.Duration) {
	client := hub.paho(t, "neighbour")
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-stop:
			return delays
		case <-tick.C:
		}
		start := time.Now()
		token := client.Publish("devices/neighbour/messages/events/", 1, false, "x")
		if !token.WaitTimeout(2*soakDelay) || token.Error() != nil {
			t.Errorf("the neighbour's message: %v", token.Error())
			return append(delays, 2*soakDelay)
		}
		delays = append(delays, time.Since(start))
	}
}

// attacker sends anything.
type attacker struct {
	t       *testing.T
	hub     *testHub
	random  *rand.Rand
	hello   []byte // a CONNECT that is let in
	samples [][]byte
	config  *tls.Config
}

func newAttacker(t *testing.T, hub *testHub, seed uint64) *attacker {
	a := &attacker{
		t: t, hub: hub, random: rand.New(rand.NewPCG(seed, 0)), hello: wire(hub.connectPacket(t, "dev1", false)),
		config: &tls.Config{RootCAs: hub.CAPool(), ServerName: "localhost", ClientSessionCache: tls.NewLRUClientSessionCache(1)},
	}
	f, err := os.Open("testdata/clients.hex")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if fields := strings.Fields(lines.Text()); fields[0] != "#" {
			raw, err := hex.DecodeString(fields[2])
			if err != nil {
				t.Fatal(err)
			}
			a.samples = append(a.samples, raw)
		}
	}
	return a
}

// allocates opens a connection, sends input, waits until the hub has hung up, and returns how many bytes
// the process allocated meanwhile.
func (a *attacker) allocates(input []byte) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	conn, err := tls.Dial("tcp", a.hub.MQTTAddr(), a.config)
	if err != nil {
		a.t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	if a.random.IntN(5) > 0 {
		input = append(slices.Clone(a.hello), input...)
	}
	_, _ = conn.Write(input) // the hub may have hung up already
	_ = conn.CloseWrite()
	if _, err := io.Copy(io.Discard, conn); err != nil {
		if ne, ok := err.(net.Error); ok && ne.Timeout() {
			a.t.Errorf("the hub does not hang up after\n%s", hex.Dump(input))
		}
	}
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// input is up to soakInput bytes of packets, of which few are good.
func (a *attacker) input() []byte {
	var all []byte
	for len(all) < soakInput && a.random.IntN(6) > 0 {
		all = append(all, a.packet()...)
	}
	return all[:min(len(all), soakInput)]
}

func (a *attacker) packet() []byte {
	switch a.random.IntN(5) {
	case 0:
		return a.noise(a.random.IntN(64))
	case 1: // what a client sends
		return slices.Clone(a.samples[a.random.IntN(len(a.samples))])
	case 2: // with some bytes changed
		packet := slices.Clone(a.samples[a.random.IntN(len(a.samples))])
		for range 1 + a.random.IntN(3) {
			packet[a.random.IntN(len(packet))] = byte(a.random.UintN(256))
		}
		return packet
	case 3: // a length that promises anything
		return append([]byte{byte(a.random.UintN(256))}, append(binary.AppendUvarint(nil, a.random.Uint64N(1<<28)), a.noise(16)...)...)
	}
	return a.publish()
}

func (a *attacker) noise(n int) []byte {
	raw := make([]byte, n)
	for i := range raw {
		raw[i] = byte(a.random.UintN(256))
	}
	return raw
}

// publish is a well-formed PUBLISH to a topic that is nearly one of the hub's.
func (a *attacker) publish() []byte {
	topic := strings.Join([]string{
		pick(a.random, "devices/dev1/messages/events/", "$iothub/twin/GET/", "$iothub/twin/PATCH/properties/reported/", "$iothub/methods/res/200/", "devices/dev2/messages/events/"),
		pick(a.random, "", "?$rid=1", "?$rid=", "a=b&c", "%24.mid=1&%24.ct=x", "%", "a=b=c", "?$rid=1&$version=7"),
		pick(a.random, "", "", string(a.noise(8))),
	}, "")
	body := pick(a.random, "", "{}", `{"a":1}`, `{"a":null}`, "[[[[[[[[", `{"a":`, strings.Repeat(`{"a":`, 100), `{"a.b":1}`, string(a.noise(40)))
	var b bytes.Buffer
	qos := byte(a.random.IntN(3))
	b.WriteByte(0x30 | qos<<1 | byte(a.random.UintN(2))<<3 | byte(a.random.UintN(2)))
	rest := append([]byte{byte(len(topic) >> 8), byte(len(topic))}, topic...)
	if qos > 0 {
		rest = append(rest, a.noise(2)...)
	}
	rest = append(rest, body...)
	b.Write(binary.AppendUvarint(nil, uint64(len(rest))))
	b.Write(rest)
	return b.Bytes()
}

func pick(random *rand.Rand, all ...string) string { return all[random.IntN(len(all))] }
