package e2e

import (
	"bufio"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"iothub-gateway/hubsim"
	"iothub-gateway/internal/testkit"
)

// chromium is Debian's Chromium without a window, told what to do with the DevTools protocol over two pipes:
// JSON texts that end with a zero byte. It clicks and types as a person does, by mouse and keyboard events.
type chromium struct {
	t       *testing.T
	in      io.WriteCloser
	session string // of its one page
	said    testkit.Log

	mu      sync.Mutex // guards the fields below
	asked   int
	answers map[int]chan cdpMessage
	trouble []string // errors that the page ran into
}

// cdpMessage is a command, its answer, or an event.
type cdpMessage struct {
	ID      int             `json:"id,omitempty"`
	Session string          `json:"sessionId,omitempty"`
	Method  string          `json:"method,omitempty"`
	Params  any             `json:"params,omitempty"`
	Result  json.RawMessage `json:"result,omitempty"`
	Error   *struct {
		Message string `json:"message"`
	} `json:"error,omitempty"`
}

// startChromium runs a browser that trusts hub's certificate, and no other that it would not trust anyway.
func startChromium(t *testing.T, hub *hubsim.Hub) *chromium {
	t.Helper()
	b := &chromium{t: t, answers: map[int]chan cdpMessage{}}
	cmd := exec.Command("chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
		"--disable-background-networking", "--disable-component-update", "--disable-extensions", "--remote-debugging-pipe",
		"--ignore-certificate-errors-spki-list="+keyHash(t, hub), "--user-data-dir="+t.TempDir(), "about:blank")
	cmd.Stderr = &b.said
	commands, in, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	out, answers, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.ExtraFiles = []*os.File{commands, answers} // its descriptors 3 and 4
	if err := cmd.Start(); err != nil {
		t.Fatalf("%v; make test installs what the tests need, or names it (e2e/peers.sh)", err)
	}
	_, _ = commands.Close(), answers.Close()
	b.in = in
	done := make(chan struct{})
	go func() {
		defer close(done)
		b.listen(out)
		_ = cmd.Wait()
	}()
	t.Cleanup(func() {
		_ = in.Close() // it ends with its pipe, its helpers with it
		select {
		case <-done:
		case <-time.After(10 * time.Second):
			_ = cmd.Process.Kill()
			<-done
		}
		if t.Failed() {
			t.Logf("chromium said:\n%s", b.said.String())
		}
	})
	b.attach()
	return b
}

// keyHash is how Chromium names the key of the hub's certificate.
func keyHash(t *testing.T, hub *hubsim.Hub) string {
	t.Helper()
	conn, err := tls.Dial("tcp", hub.HTTPSAddr(), &tls.Config{RootCAs: hub.CAPool(), ServerName: "localhost"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	sum := sha256.Sum256(conn.ConnectionState().PeerCertificates[0].RawSubjectPublicKeyInfo)
	return base64.StdEncoding.EncodeToString(sum[:])
}

// listen hands answers to who asked, and notes what went wrong on the page.
func (b *chromium) listen(out io.Reader) {
	for in := bufio.NewReader(out); ; {
		text, err := in.ReadBytes(0)
		if err != nil {
			return
		}
		var m cdpMessage
		if err := json.Unmarshal(text[:len(text)-1], &m); err != nil {
			continue
		}
		b.mu.Lock()
		if answered := b.answers[m.ID]; answered != nil {
			answered <- m
			delete(b.answers, m.ID)
		}
		if m.Method == "Runtime.exceptionThrown" || m.Method == "Log.entryAdded" && strings.Contains(string(text), `"level":"error"`) {
			b.trouble = append(b.trouble, string(text))
		}
		b.mu.Unlock()
	}
}

// do carries a command out and decodes its result into into, unless that is nil.
func (b *chromium) do(method string, params, into any) {
	b.t.Helper()
	b.mu.Lock()
	b.asked++
	id, answered := b.asked, make(chan cdpMessage, 1)
	b.answers[id] = answered
	b.mu.Unlock()
	text, err := json.Marshal(cdpMessage{ID: id, Session: b.session, Method: method, Params: params})
	if err == nil {
		_, err = b.in.Write(append(text, 0))
	}
	if err != nil {
		b.t.Fatalf("%s: %v", method, err)
	}
	select {
	case m := <-answered:
		if m.Error != nil {
			b.t.Fatalf("%s: %s", method, m.Error.Message)
		}
		if into != nil && json.Unmarshal(m.Result, into) != nil {
			b.t.Fatalf("%s: the result is %s", method, m.Result)
		}
	case <-time.After(30 * time.Second):
		b.t.Fatalf("%s: no answer from chromium", method)
	}
}

// attach finds the page and listens to what happens in it.
func (b *chromium) attach() {
	b.t.Helper()
	var page struct{ TargetID, SessionID string }
	b.do("Target.createTarget", fields{"url": "about:blank"}, &page)
	b.do("Target.attachToTarget", fields{"targetId": page.TargetID, "flatten": true}, &page)
	b.session = page.SessionID
	for _, domain := range []string{"Runtime", "Log", "Page"} {
		b.do(domain+".enable", nil, nil)
	}
}

func (b *chromium) open(url string) {
	b.t.Helper()
	var got struct{ ErrorText string }
	b.do("Page.navigate", fields{"url": url}, &got)
	if got.ErrorText != "" {
		b.t.Fatalf("%s: %s", url, got.ErrorText)
	}
}

// value is what an expression is in the page.
func (b *chromium) value(expression string) (text string) {
	b.t.Helper()
	var got struct {
		Result struct{ Value json.RawMessage }
	}
	b.do("Runtime.evaluate", fields{"expression": "String(" + expression + ")", "returnByValue": true}, &got)
	_ = json.Unmarshal(got.Result.Value, &text) // an exception has no value
	return text
}

// find is an expression for the element of a selector.
func find(selector string) string { return fmt.Sprintf("document.querySelector(%q)", selector) }

// shows waits until the text of an element holds part.
func (b *chromium) shows(selector, part string) {
	b.t.Helper()
	text := ""
	defer func() {
		if b.t.Failed() {
			b.t.Logf("%s shows %q", selector, text)
		}
	}()
	testkit.Within(b.t, waitForPage, fmt.Sprintf("%s shows %q", selector, part), func() bool {
		text = b.value(find(selector) + "?.innerText")
		return strings.Contains(text, part)
	})
}

// click waits for an element and clicks into its middle.
func (b *chromium) click(selector string) {
	b.t.Helper()
	var at struct{ X, Y float64 }
	testkit.Within(b.t, waitForPage, "there is a "+selector, func() bool {
		place := b.value(`(() => { const e = ` + find(selector) + `; e.scrollIntoView({block: 'center'}); const r = e.getBoundingClientRect();
			return JSON.stringify({x: r.x + r.width / 2, y: r.y + r.height / 2}) })()`)
		return json.Unmarshal([]byte(place), &at) == nil
	})
	for _, kind := range []string{"mousePressed", "mouseReleased"} {
		b.do("Input.dispatchMouseEvent", fields{"type": kind, "x": at.X, "y": at.Y, "button": "left", "clickCount": 1}, nil)
	}
}

// fill clicks into a field and types text in place of what is there.
func (b *chromium) fill(selector, text string) {
	b.t.Helper()
	b.click(selector)
	b.value(find(selector) + ".select()")
	b.do("Input.insertText", fields{"text": text}, nil)
}

// isUnharmed fails if a script failed or the page wanted what its policy forbids.
func (b *chromium) isUnharmed() {
	b.t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, text := range b.trouble {
		if !strings.Contains(text, "favicon.ico") { // browsers ask for it
			b.t.Error(text)
		}
	}
}
