package coap

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/maphash"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/plgd-dev/go-coap/v3/message"
	"github.com/plgd-dev/go-coap/v3/message/codes"
)

// part is the request that carries block num of a body.
func part(t testing.TB, body string, num int, szx uint8, token string) request {
	t.Helper()
	b := block{num: num, szx: szx}
	end := min(len(body), b.offset()+b.size())
	b.more = end < len(body)
	m := post(int32(num), body[b.offset():end], block1(num, b.more, szx))
	m.Token = message.Token(token)
	return received(t, m)
}

// received is a message as the gate sees it.
func received(t testing.TB, m message.Message) request {
	t.Helper()
	datagram := encoded(t, m)
	p, err := parse(datagram)
	if err != nil {
		t.Fatal(err)
	}
	return newRequest(p, datagram, maphash.MakeSeed())
}

func TestABodyIsWholeWhateverTokensItsBlocksHave(t *testing.T) {
	body := strings.Repeat("0123456789", 20)
	for _, c := range []struct {
		what  string
		token func(int) string
	}{
		{"the same token", func(int) string { return "t" }},
		{"a new token for every block, as libcoap does", func(i int) string { return fmt.Sprint("t", i) }},
		{"no token", func(int) string { return "" }},
	} {
		t.Run(c.what, func(t *testing.T) {
			s := &sink{}
			a, _ := run(t, plainConfig(), s)
			w := dial(t, a.Addr())
			for num := range 4 {
				b := block{num: num, more: num < 3, szx: 2}
				m := post(int32(100+num), body[b.offset():min(len(body), b.offset()+64)], block1(num, b.more, 2), uintOption(message.ContentFormat, 0))
				m.Token = message.Token(c.token(num))
				code := codes.Continue
				if !b.more {
					code = codes.Changed
				}
				for range 2 { // each is retransmitted
					answer := w.ask(m, code)
					if got, err := answer.Options.GetUint32(message.Block1); err != nil || got != b.encode() {
						t.Errorf("block %d: Block1 of the answer %x, %v", num, got, err)
					}
				}
			}
			if got := s.values("d/body"); len(got) != 1 || got[0] != body {
				t.Errorf("stored %q", got)
			}
		})
	}
}

func TestASlowUploadIsNotADeadOne(t *testing.T) {
	a := newAssembly(1 << 16)
	from, now := endpointID{}, time.Now()
	body := strings.Repeat("x", 64*6)
	for num := range 6 {
		a.expire(now)
		got, code := a.add(from, part(t, body, num, 2, ""), now)
		if last := num == 5; last && (code != complete || string(got) != body) || !last && code != codes.Continue {
			t.Fatalf("block %d: %s, %d bytes", num, dotted(code), len(got))
		}
		now = now.Add(4 * time.Minute) // 24 minutes in all; the library gives up after 3 s
	}
	a.expire(now.Add(transferIdle))
	equal(t, "transfers", len(a.transfers), 0)
}

func TestBlocksAreCheckedOneByOne(t *testing.T) {
	const body = "................,,,,,,,,,,,,,,,,;;;;;;;;;;;;;;;;:"
	type step struct {
		body string
		num  int
		want string
	}
	for _, c := range []struct {
		what  string
		steps []step
		final string
	}{
		{"in order", []step{{body, 0, "2.31"}, {body, 1, "2.31"}, {body, 2, "2.31"}, {body, 3, "0.00"}}, body},
		{"a lost block", []step{{body, 0, "2.31"}, {body, 2, "4.08"}, {body, 1, "2.31"}, {body, 2, "2.31"}, {body, 3, "0.00"}}, body},
		{"without the first", []step{{body, 1, "4.08"}}, ""},
		{"the last of a forgotten body", []step{{body, 3, "4.08"}}, ""},
		{"late duplicates", []step{{body, 0, "2.31"}, {body, 1, "2.31"}, {body, 0, "2.31"}, {body, 2, "2.31"}, {body, 1, "2.31"}, {body, 3, "0.00"}}, body},
		{"a new body with the same beginning", []step{
			{body, 0, "2.31"}, {body, 1, "2.31"}, {body, 2, "2.31"},
			{body[:16] + "new", 0, "2.31"}, {body[:16] + "new", 1, "0.00"},
		}, body[:16] + "new"},
		{"another new body", []step{{body, 0, "2.31"}, {body, 1, "2.31"}, {"???" + body, 0, "2.31"}, {"???" + body, 1, "2.31"}, {"???" + body, 2, "2.31"}, {"???" + body, 3, "0.00"}}, "???" + body},
		{"one block", []step{{"short", 0, "0.00"}}, "short"},
	} {
		t.Run(c.what, func(t *testing.T) {
			a, now := newAssembly(1<<16), time.Now()
			var whole []byte
			for i, s := range c.steps {
				got, code := a.add(endpointID{}, part(t, s.body, s.num, 0, ""), now)
				equal(t, fmt.Sprint("step ", i), dotted(code), s.want)
				whole = got
			}
			equal(t, "body", string(whole), c.final)
		})
	}
}

func TestBlocksOfDifferentRequestsAreNeverMixed(t *testing.T) {
	a, now := newAssembly(1<<16), time.Now()
	body := strings.Repeat("x", 32)
	if _, code := a.add(endpointID{}, part(t, body, 0, 0, ""), now); code != codes.Continue {
		t.Fatal(dotted(code))
	}
	tagged := received(t, post(1, body[16:], block1(1, false, 0), message.Option{ID: 292, Value: []byte{1}}))
	if _, code := a.add(endpointID{}, tagged, now); code != codes.RequestEntityIncomplete {
		t.Errorf("another Request-Tag: %s", dotted(code))
	}
	other := received(t, request110("v2/t", 1, body[16:], block1(1, false, 0)))
	if _, code := a.add(endpointID{}, other, now); code != codes.RequestEntityIncomplete {
		t.Errorf("another path: %s", dotted(code))
	}
	elsewhere := endpointID{arrival: arrival{from: unmapped(netipPort(9))}}
	if _, code := a.add(elsewhere, part(t, body, 1, 0, ""), now); code != codes.RequestEntityIncomplete {
		t.Errorf("another endpoint: %s", dotted(code))
	}
	sized := received(t, post(1, body[16:], block1(1, false, 0), uintOption(message.Size1, 32)))
	if got, code := a.add(endpointID{}, sized, now); code != complete || string(got) != body {
		t.Errorf("Size1 is not part of what a body is: %s", dotted(code))
	}
}

func TestABodyTooLargeIsRefusedBeforeItIsHeld(t *testing.T) {
	a, now := newAssembly(1000), time.Now()
	body := strings.Repeat("x", 1100)
	for num := range 15 {
		if _, code := a.add(endpointID{}, part(t, body, num, 2, ""), now); code != codes.Continue {
			t.Fatalf("block %d: %s", num, dotted(code))
		}
	}
	if _, code := a.add(endpointID{}, part(t, body, 15, 2, ""), now); code != codes.RequestEntityTooLarge {
		t.Errorf("byte 1024: %s", dotted(code))
	}
	equal(t, "transfers", len(a.transfers), 0)
	far := received(t, post(1, "x", block1(1<<20-1, false, 6)))
	if _, code := a.add(endpointID{}, far, now); code != codes.RequestEntityTooLarge {
		t.Errorf("the last block there can be: %s", dotted(code))
	}
}

func TestUploadsThatAreNeverFinishedTakeABoundedRoom(t *testing.T) {
	for limit, want := range map[int]int{64 << 10: maxTransfers, 1 << 20: maxTransferBytes >> 20, 64 << 20: 1} {
		a, now := newAssembly(limit), time.Now()
		for i := range 2 * maxTransfers {
			now = now.Add(time.Millisecond)
			from := endpointID{arrival: arrival{from: netipPort(uint16(i))}}
			if _, code := a.add(from, part(t, "0123456789abcdef+", 0, 0, ""), now); code != codes.Continue {
				t.Fatal(dotted(code))
			}
		}
		equal(t, fmt.Sprint("transfers of at most ", limit), len(a.transfers), want)
		newest := endpointID{arrival: arrival{from: netipPort(2*maxTransfers - 1)}}
		if _, code := a.add(newest, part(t, "0123456789abcdef+", 1, 0, ""), now); code != complete {
			t.Errorf("the newest had to go: %s", dotted(code))
		}
	}
}

// A sender that follows RFC 7959 over a bad network gets its body through, exactly.
func TestABodySurvivesABadNetwork(t *testing.T) {
	for seed := range uint64(60) {
		dice := rand.New(rand.NewPCG(seed, 1))
		body := make([]byte, dice.IntN(3000))
		for i := range body {
			body[i] = 'a' + byte(dice.IntN(2))
		}
		szx := uint8(dice.IntN(4))
		a, now := newAssembly(1<<16), time.Now()
		size := block{szx: szx}.size()
		last := max(0, (len(body)-1)/size)
		for num := 0; ; {
			if num > 0 && dice.IntN(4) == 0 { // a late duplicate
				_, _ = a.add(endpointID{}, part(t, string(body), dice.IntN(num), szx, ""), now)
			}
			got, code := a.add(endpointID{}, part(t, string(body), num, szx, ""), now)
			if dice.IntN(4) == 0 {
				continue // the answer is lost: the same again
			}
			if num == last {
				if code != complete || !bytes.Equal(got, body) {
					t.Fatalf("seed %d: %s, %d of %d bytes", seed, dotted(code), len(got), len(body))
				}
				break
			}
			if code != codes.Continue {
				t.Fatalf("seed %d: block %d: %s", seed, num, dotted(code))
			}
			num++
		}
	}
}

func FuzzAssembly(f *testing.F) {
	f.Add([]byte{0, 0, 8, 1, 0, 0, 16, 2, 1, 0, 24, 3})
	f.Add([]byte{0, 0, 8, 1, 0, 0, 8, 1, 1, 0, 16, 9})
	f.Fuzz(func(t *testing.T, script []byte) {
		const limit = 200
		a, now := newAssembly(limit), time.Now()
		for len(script) >= 4 {
			from := endpointID{arrival: arrival{from: netipPort(uint16(script[0]))}}
			b := decodeBlock(uint32(binary.BigEndian.Uint16(script[1:])))
			r := request{block: &b, transfer: string(script[3] & 3), payload: bytes.Repeat(script[3:4], int(script[3]))}
			if b.valid(16) && script[3] > 127 {
				r.payload = bytes.Repeat(script[3:4], b.size())
			}
			body, code := a.add(from, r, now)
			switch code {
			case complete:
				if b.more || len(body) != b.offset()+len(r.payload) || len(body) > limit {
					t.Fatalf("complete: %+v, %d bytes", b, len(body))
				}
				a.drop(from)
			case codes.Continue, codes.BadRequest, codes.RequestEntityIncomplete, codes.RequestEntityTooLarge:
			default:
				t.Fatalf("answer %s", dotted(code))
			}
			for _, tr := range a.transfers {
				if len(tr.body) > limit {
					t.Fatalf("%d bytes are held", len(tr.body))
				}
			}
			now, script = now.Add(time.Second), script[4:]
		}
	})
}
