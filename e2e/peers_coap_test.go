package e2e

import (
	"cmp"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"iothub-gateway/hubsim"
	"iothub-gateway/internal/testkit"
)

const (
	libcoap = "coap-client-openssl"
	pskName = "room-17"
	pskKey  = "twenty-bytes-of-key."
)

// reporters is a plant whose devices report over CoAP: tank over plain UDP, room over DTLS. Barn and loft
// are their neighbours.
type reporters struct {
	*plant
	plain, secure string // ports
}

func newReporters(t *testing.T, hub *hubsim.Hub) *reporters {
	t.Helper()
	r := &reporters{plain: freePort(t), secure: freePort(t)}
	r.plant = newPlant(t, hub, fmt.Sprintf(`listeners:
  plain: { coap: "127.0.0.1:%s", allow: [127.0.0.0/24], limits: { body: 16KiB, rate: 1000 } }
  field: { coaps: "127.0.0.1:%s", psk_dir: psk, limits: { body: 16KiB, rate: 1000 } }
devices:
  tank:
    identity: { device: tank, sas_key: "file:keys/tank" }
    coap: { listener: plain, from: 127.0.0.1, path: /v1/tank }
    points: { n: { senml: n }, level: { senml: level } }
  room:
    identity: { device: room, sas_key: "file:keys/room" }
    coap: { listener: field, psk: %s, path: /v1/room }
    points: { n: { senml: n }, level: { senml: level } }
  barn: { local: true, coap: { listener: plain, from: 127.0.0.9, path: /v1/barn }, points: { n: { senml: n } } }
  loft: { local: true, coap: { listener: field, psk: loft-1, path: /v1/loft }, points: { n: { senml: n } } }
`, r.plain, r.secure, pskName), "tank", "room")
	r.write("psk/"+pskName, pskKey)
	r.write("psk/loft-1", "the-key-of-the-loft.")
	return r
}

// ready starts the gateway and waits until its listeners are open.
func (r *reporters) ready() *process {
	r.t.Helper()
	gateway := r.start()
	testkit.Within(r.t, 20*time.Second, "both listeners are open", func() bool {
		return strings.Count(gateway.String(), "listening") == 2
	})
	return gateway
}

// report is a SenML body of so many records; the first is the level, the last the number n.
func report(n, records int) string {
	text := `[{"n":"level","v":12.5}`
	for i := 2; i < records; i++ {
		text += fmt.Sprintf(`,{"n":"filler-%d","v":%[1]d}`, i)
	}
	return text + fmt.Sprintf(`,{"n":"n","v":%d}]`, n)
}

// request is a request of libcoap's client. What is empty has the value named beside it.
type request struct {
	secure   bool
	key      string // pskKey
	method   string // post
	path     string // the device's
	format   string // 110, SenML in JSON
	body     string // none
	options  string // none
	patience string // seconds it waits for the answer: 30
}

// answer is what libcoap's client saw: its exit code is always 0.
type answer struct {
	code   string // of the last answer, "" if there was none
	tokens int    // different ones in its requests
}

var (
	coapAnswer  = regexp.MustCompile(`(?m)^v:1 t:\w+ c:([245]\.\d\d) `)
	coapRequest = regexp.MustCompile(`(?m)^v:1 t:\w+ c:POST i:\w+ {(\w*)} `)
)

// send sends a request with libcoap's client.
func (r *reporters) send(q request) answer {
	r.t.Helper()
	args := []string{"-v", "7", "-B", cmp.Or(q.patience, "30"), "-m", cmp.Or(q.method, "post")}
	if q.body != "" {
		args = append(args, "-t", cmp.Or(q.format, "110"), "-f", r.write("body.json", q.body))
	}
	args = append(args, strings.Fields(q.options)...)
	if q.secure {
		args = append(args, "-u", pskName, "-k", cmp.Or(q.key, pskKey), "coaps://127.0.0.1:"+r.secure+cmp.Or(q.path, "/v1/room"))
	} else {
		args = append(args, "coap://127.0.0.1:"+r.plain+cmp.Or(q.path, "/v1/tank"))
	}
	got := peer(r.t, libcoap, args...)
	var a answer
	for _, found := range coapAnswer.FindAllStringSubmatch(got.stdout, -1) {
		a.code = found[1]
	}
	tokens := map[string]bool{}
	for _, found := range coapRequest.FindAllStringSubmatch(got.stdout, -1) {
		tokens[found[1]] = true
	}
	a.tokens = len(tokens)
	return a
}

// numbers are the numbers of a device's reports at the hub, in the order of the hub.
func (r *reporters) numbers(device string) []int {
	r.t.Helper()
	var all []int
	for _, m := range r.hub.Messages(0, 0) {
		if m.Device != device {
			continue
		}
		if n, ok := field[int](r.t, m.Body, "n"); ok {
			all = append(all, n)
		}
	}
	return all
}

// arrive waits until the reports of tank and room are at the hub, and applies the oracle.
func (r *reporters) arrive(tank, room []int) {
	r.t.Helper()
	drained(r.t, r.plant)
	for device, want := range map[string][]int{"tank": tank, "room": room} {
		if got := r.numbers(device); !slices.Equal(got, want) {
			r.t.Errorf("%s: reports %v are at the hub, want %v", device, got, want)
		}
	}
	judge(r.t, r.hub)
}

func TestLibcoapReportsOverUDPAndDTLSWholeAndInBlocks(t *testing.T) {
	plant := newReporters(t, startHub(t))
	plant.ready()
	for n, c := range []struct {
		request
		block int // bytes of one
		code  string
	}{
		{request{body: report(0, 2)}, 1024, "2.04"},
		{request{body: report(1, 200)}, 1024, "2.04"},
		{request{body: report(2, 60), options: "-b 256"}, 256, "2.04"},
		{request{body: report(3, 200), options: "-l 3"}, 1024, "2.04"},        // the third datagram is lost
		{request{body: report(4, 2), options: "-N", patience: "1"}, 1024, ""}, // non-confirmable: no answer
		{request{secure: true, body: report(5, 2)}, 1024, "2.04"},
		{request{secure: true, body: report(6, 200)}, 1024, "2.04"},
		{request{secure: true, body: report(7, 60), options: "-b 64"}, 64, "2.04"},
	} {
		blocks := (len(c.body) + c.block - 1) / c.block // libcoap uses a new token for each
		if got := plant.send(c.request); got != (answer{c.code, blocks}) {
			t.Errorf("report %d: got %+v, want %q to requests with %d tokens", n, got, c.code, blocks)
		}
	}
	plant.arrive([]int{0, 1, 2, 3, 4}, []int{5, 6, 7})
	for _, m := range plant.hub.Messages(0, 0) {
		if level, _ := field[float64](t, m.Body, "level"); level != 12.5 {
			t.Errorf("%s: level is not 12.5 in %s", m.Device, m.Body)
		}
	}
}

func TestWhatALibcoapClientMayNotSendIsRefusedAndNothingArrives(t *testing.T) {
	plant := newReporters(t, startHub(t))
	plant.ready()
	for _, c := range []struct {
		what string
		request
		code string
	}{
		{"a path of nobody", request{path: "/v1/attic", body: report(1, 2)}, "4.04"},
		{"another device's path", request{path: "/v1/barn", body: report(2, 2)}, "4.03"},
		{"another device's path, over DTLS", request{secure: true, path: "/v1/loft", body: report(3, 2)}, "4.03"},
		{"more than the limit", request{body: report(4, 2000)}, "4.13"},
		{"XML", request{format: "41", body: report(5, 2)}, "4.15"},
		{"GET", request{method: "get"}, "4.05"},
		{"PUT", request{method: "put", body: report(6, 2)}, "4.05"},
		{"half a report", request{body: report(7, 2)[:20]}, "4.00"},
		{"a report without a mapped value", request{body: `[{"n":"x","v":8}]`}, "4.22"},
		{"a source that is no device", request{options: "-a 127.0.0.7", body: report(11, 2)}, "4.01"},
		{"a source that is not allowed", request{options: "-a 127.0.1.1", body: report(12, 2), patience: "1"}, ""},
		{"a wrong key", request{secure: true, key: "another-key-of-20-b.", body: report(9, 2), patience: "1"}, ""},
	} {
		if got := plant.send(c.request); got.code != c.code {
			t.Errorf("%s: answered %q, want %q", c.what, got.code, c.code)
		}
	}
	for _, secure := range []bool{false, true} {
		if got := plant.send(request{secure: secure, body: report(10, 2)}); got.code != "2.04" {
			t.Errorf("after all that a good report is answered %q", got.code)
		}
	}
	plant.arrive([]int{10}, []int{10})
}

// The hub lets nobody in until the end, so that what arrives there has been in the queue's file when the
// process was killed.
func TestWhatADeviceSawAnsweredSurvivesAKillRightAfter(t *testing.T) {
	hub := startHub(t)
	plant := newReporters(t, hub)
	hub.RefuseConnects("", 3, math.MaxInt)
	for n, q := range []request{{body: report(0, 2)}, {body: report(1, 200)}, {secure: true, body: report(2, 2)}, {secure: true, body: report(3, 200)}} {
		gateway := plant.ready()
		got := plant.send(q)
		gateway.kill()
		if got.code != "2.04" {
			t.Errorf("report %d: answered %q", n, got.code)
		}
	}
	gateway := plant.ready()
	plant.node("1", "2", "2")
	gateway.kill()
	if n := hub.Received(); n != 0 {
		t.Fatalf("%d messages came through a hub that was closed", n)
	}
	hub.RefuseConnects("", 0, 0)
	plant.start()
	plant.arrive([]int{0, 1, 1, 2}, []int{2, 3})
}

// node posts so many reports of so many records, numbered from first, as tank with the JavaScript client, and wants 2.04 to each.
func (r *reporters) node(first, count, records string) {
	r.t.Helper()
	got := peer(r.t, "node", "npm/post.js", r.plain, "/v1/tank", first, count, records)
	n, err := strconv.Atoi(count)
	if err != nil || got.code != 0 || got.stdout != strings.Repeat("2.04\n", n) {
		r.t.Errorf("node posted %s reports: exit code %d\n%s%s", count, got.code, got.stdout, got.stderr)
	}
}

func TestTheJavaScriptClientReportsWholeAndInBlocks(t *testing.T) {
	plant := newReporters(t, startHub(t))
	plant.ready()
	plant.node("1", "5", "2")
	plant.node("6", "3", "150")
	plant.arrive([]int{1, 2, 3, 4, 5, 6, 7, 8}, nil)
}
