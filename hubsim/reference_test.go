package hubsim_test

import (
	"encoding/hex"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"iothub-gateway/internal/testkit"
)

// player plays one transcript of testdata/transcripts.txt, which says what its lines mean.
type player struct {
	t           *testing.T
	hub         *testHub
	connections map[string]*rawClient
	now         *rawClient
	seen        int // stored messages
	answers     chan string
}

func TestTheReferenceTranscriptsHoldByteForByte(t *testing.T) {
	text, err := os.ReadFile("testdata/transcripts.txt")
	if err != nil {
		t.Fatal(err)
	}
	line := 0
	for i, part := range strings.Split(string(text), "\n== ") {
		lines := strings.Split(part, "\n")
		first := line
		line += len(lines)
		if i == 0 {
			continue // what stands before the first
		}
		t.Run(lines[0], func(t *testing.T) {
			hub := startHub(t, hubConfig())
			if err := hub.RegisterWithKey("dev1", "", "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="); err != nil {
				t.Fatal(err)
			}
			hub.NextRequest(0x1f)
			p := &player{t: t, hub: hub, connections: map[string]*rawClient{}, answers: make(chan string, 1)}
			p.connection("first")
			for n, text := range lines[1:] {
				if text == "" || text[0] == '#' {
					continue
				}
				if err := p.play(text); err != nil {
					t.Fatalf("testdata/transcripts.txt:%d: %s\n%v", first+n+2, text, err)
				}
			}
		})
	}
}

// connection goes on with the connection of that name.
func (p *player) connection(name string) {
	if p.connections[name] == nil {
		p.connections[name] = p.hub.raw(p.t)
	}
	p.now = p.connections[name]
}

func (p *player) play(line string) error {
	verb, rest, _ := strings.Cut(line, " ")
	switch verb {
	case ">":
		packet, err := pattern(rest)
		if err != nil {
			return err
		}
		_, err = p.now.conn.Write([]byte(packet.text))
		return err
	case "<":
		return p.receive(rest)
	case "x":
		p.now.expectClosed()
	case "connection":
		p.connection(rest)
	case "close":
		return p.now.conn.Close()
	case "*":
		return p.stored(rest)
	case "=":
		if got := <-p.answers; !strings.HasPrefix(got, rest) {
			return fmt.Errorf("the answer is %s", got)
		}
	case "PATCH", "PUT", "POST", "GET":
		path, body, _ := strings.Cut(rest, " ")
		service := p.hub.rest(p.t)
		go func() {
			status, _, answer := service.do(verb, path, body)
			p.answers <- strconv.Itoa(status) + " " + answer
		}()
	default:
		return fmt.Errorf("what does %q mean?", verb)
	}
	return nil
}

// receive wants the next packet to be the one that is written down.
func (p *player) receive(written string) error {
	want, err := pattern(written)
	if err != nil {
		return err
	}
	got, err := p.now.nextBytes()
	if err != nil {
		return err
	}
	if !want.fits(got) {
		return fmt.Errorf("received\n%s\nwant\n%s", hex.Dump(got), hex.Dump([]byte(want.text)))
	}
	return nil
}

// stored wants the next stored message to have this body and, among others, these properties.
func (p *player) stored(written string) error {
	fields := strings.Fields(written)
	testkit.Eventually(p.t, "the message is there", func() bool { return len(p.hub.Messages(0, 100)) > p.seen })
	m := p.hub.Messages(0, 100)[p.seen]
	p.seen++
	if string(m.Body) != fields[0] {
		return fmt.Errorf("body %s", m.Body)
	}
	for _, field := range fields[1:] {
		name, want, _ := strings.Cut(field, "=")
		got, ok := m.Properties[name]
		if !ok {
			got = m.System[name]
		}
		if got != want {
			return fmt.Errorf("property %s is %q", name, got)
		}
	}
	return nil
}

// bytePattern is bytes of which some may be anything.
type bytePattern struct {
	text string
	any  []int // places in text
	open bool  // anything may follow
}

var patternToken = regexp.MustCompile("'[^']*'|\x60[^\x60]*\x60|\\S+")

func pattern(written string) (p bytePattern, err error) {
	for _, token := range patternToken.FindAllString(written, -1) {
		switch {
		case token[0] == '\'':
			token = token[1 : len(token)-1]
			p.text += string([]byte{byte(len(token) >> 8), byte(len(token))}) + token
		case token[0] == '\x60':
			p.text += token[1 : len(token)-1]
		case token == "??":
			p.any = append(p.any, len(p.text))
			p.text += "?"
		case token == "**":
			p.open = true
		default:
			b, err := strconv.ParseUint(token, 16, 8)
			if err != nil {
				return p, err
			}
			p.text += string([]byte{byte(b)})
		}
	}
	return p, nil
}

func (p bytePattern) fits(got []byte) bool {
	if len(got) < len(p.text) || len(got) > len(p.text) && !p.open {
		return false
	}
	for i := range p.text {
		if got[i] != p.text[i] && !slices.Contains(p.any, i) {
			return false
		}
	}
	return true
}

func TestPatternsOfTranscripts(t *testing.T) {
	p, err := pattern("30 ?? 'a b' \x60c d\x60 **")
	if err != nil || p.text != "\x30?\x00\x03a bc d" || !cmp.Equal(p.any, []int{1}) || !p.open {
		t.Fatalf("%+v, %v", p, err)
	}
	for text, want := range map[string]bool{
		"\x30\x77\x00\x03a bc d": true, "\x30\x77\x00\x03a bc dmore": true, "\x31\x77\x00\x03a bc d": false, "\x30\x77\x00\x03a bc ": false,
	} {
		if p.fits([]byte(text)) != want {
			t.Errorf("%q fits: %v", text, !want)
		}
	}
}
