package hubsim_test

import (
	"bufio"
	"crypto/tls"
	"html"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"github.com/mochi-mqtt/server/v2/packets"
)

// browser is what a web browser is to a server: it keeps cookies and says where a request comes from.
type browser struct {
	t      *testing.T
	client *http.Client
	base   string // https://localhost:port
	site   string // Sec-Fetch-Site
}

// browse is a browser that has not been here before; redirects are shown, not followed.
func (h *testHub) browse(t *testing.T) *browser {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: h.CAPool()}}
	t.Cleanup(transport.CloseIdleConnections)
	page, err := url.Parse(h.PageURL())
	if err != nil {
		t.Fatal(err)
	}
	return &browser{t: t, base: "https://" + page.Host, site: "same-origin", client: &http.Client{
		Transport: transport, Jar: jar,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// openPage is a browser of a person who has opened the address that the hub prints.
func (h *testHub) openPage(t *testing.T) *browser {
	t.Helper()
	b := h.browse(t)
	if got := b.get(strings.TrimPrefix(h.PageURL(), b.base)); got.StatusCode != 303 || got.Header.Get("Location") != "/ui/" {
		t.Fatalf("the printed address: %d to %q", got.StatusCode, got.Header.Get("Location"))
	}
	return b
}

func (b *browser) do(request *http.Request, err error) *http.Response {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
	request.Header.Set("Sec-Fetch-Site", b.site)
	response, err := b.client.Do(request)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { _ = response.Body.Close() })
	return response
}

func (b *browser) get(path string) *http.Response {
	b.t.Helper()
	return b.do(http.NewRequestWithContext(b.t.Context(), http.MethodGet, b.base+path, nil))
}

// read is the text of an answer of this status.
func (b *browser) read(response *http.Response, status int) string {
	b.t.Helper()
	text, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != status {
		b.t.Fatalf("%s: %d %v, want %d\n%s", response.Request.URL.Path, response.StatusCode, err, status, text)
	}
	return string(text)
}

// post sends a form of NAME, VALUE pairs.
func (b *browser) post(path string, pairs ...string) *http.Response {
	b.t.Helper()
	form := url.Values{}
	for i := 0; i < len(pairs); i += 2 {
		form.Set(pairs[i], pairs[i+1])
	}
	request, err := http.NewRequestWithContext(b.t.Context(), http.MethodPost, b.base+path, strings.NewReader(form.Encode()))
	if err == nil {
		request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	return b.do(request, err)
}

// submit posts a form and wants every part of want on the page that comes back.
func (b *browser) submit(path string, want []string, pairs ...string) string {
	b.t.Helper()
	page := b.read(b.post(path, pairs...), 200)
	for _, part := range want {
		if !strings.Contains(page, html.EscapeString(part)) {
			b.t.Errorf("%s: no %q in\n%s", path, part, page)
		}
	}
	return page
}

func TestTheWebFaceOpensOnlyToItsKey(t *testing.T) {
	hub := startHub(t, hubConfig())
	hub.password(t, "dev1")
	stranger := hub.browse(t)
	if got := stranger.get("/"); got.StatusCode != 303 || got.Header.Get("Location") != "/ui/" {
		t.Errorf("the root: %d to %q", got.StatusCode, got.Header.Get("Location"))
	}
	for _, path := range []string{"/ui/", "/ui/device?id=dev1", "/ui/live", "/ui/?key=", "/ui/?key=wrong"} {
		if page := stranger.read(stranger.get(path), 403); strings.Contains(page, "dev1") || !strings.Contains(page, "gateway hub page") {
			t.Errorf("%s shows a stranger\n%s", path, page)
		}
	}
	key := strings.TrimPrefix(hub.PageURL(), stranger.base+"/ui/")
	for _, path := range []string{"/ui/twin", "/ui/call", "/ui/send", "/ui/send" + key} {
		stranger.read(stranger.post(path, "id", "dev1", "body", "x", "minutes", "1"), 403)
	}
	if n, err := hub.PurgeCommands("dev1"); n != 0 || err != nil {
		t.Errorf("%d messages of strangers wait, %v", n, err)
	}
	person := hub.openPage(t)
	response := person.get("/ui/")
	if page := person.read(response, 200); !strings.Contains(page, ">dev1<") || strings.Contains(page, key) {
		t.Errorf("the page is\n%s", page)
	}
	if policy := response.Header.Get("Content-Security-Policy"); !strings.HasPrefix(policy, "default-src 'none'; script-src 'self';") || strings.Contains(policy, "unsafe") {
		t.Errorf("the policy is %q", policy)
	}
	again := hub.browse(t).get(strings.TrimPrefix(hub.PageURL(), stranger.base) + "&q=a")
	cookie := again.Header.Get("Set-Cookie")
	for _, part := range []string{"__Host-", "; Path=/", "; HttpOnly", "; Secure", "; SameSite=Lax"} {
		if !strings.Contains(cookie, part) {
			t.Errorf("the cookie has no %q: %s", part, cookie)
		}
	}
	if to := again.Header.Get("Location"); to != "/ui/?q=a" {
		t.Errorf("the key stays in the address: %s", to)
	}
}

func TestTheWebFaceTakesChangesOnlyFromItsOwnPages(t *testing.T) {
	hub := startHub(t, hubConfig())
	hub.password(t, "dev1")
	person := hub.openPage(t)
	send := func() int {
		return person.post("/ui/send", "id", "dev1", "body", "x", "minutes", "1", "ack", "none").StatusCode
	}
	for site, want := range map[string]int{"same-origin": 200, "same-site": 403, "cross-site": 403} { // another port of localhost is the same site
		person.site = site
		if got := send(); got != want {
			t.Errorf("a form of %s: %d, want %d", site, got, want)
		}
	}
	if n, err := hub.PurgeCommands("dev1"); n != 1 || err != nil {
		t.Errorf("%d messages wait, %v", n, err)
	}
}

// evil is markup that does harm where it is not escaped.
const evil = `</pre></textarea><script>alert(1)</script>`

func TestWhatDevicesSayNeverBecomesMarkup(t *testing.T) {
	hub := startHub(t, hubConfig())
	answering(t, hub, "dev1/mod1", func(string, string) (string, string) { return "200", `"` + evil + `"` })
	c := hub.rawConnected(t, "it's", true)
	c.subscribe(1, 0, twinResults)
	c.publish("$iothub/twin/PATCH/properties/reported/?$rid=1", 0, 0, `{"name":"`+evil+`"}`)
	c.expect(packets.Publish)
	c.publish("devices/it's/messages/events/"+url.QueryEscape(evil)+"="+url.QueryEscape(evil), 1, 2, evil)
	c.expectPuback(2)
	person := hub.openPage(t)
	pages := []string{
		person.read(person.get("/ui/?q="+url.QueryEscape(evil)), 200), person.read(person.get("/ui/"), 200),
		person.read(person.get("/ui/device?id=it's"), 200),
		person.submit("/ui/call", []string{"alert"}, "id", "dev1/mod1", "name", evil, "payload", evil, "seconds", "5"),
		person.submit("/ui/call", []string{"status 200"}, "id", "dev1/mod1", "name", "m", "payload", "", "seconds", "5"),
		person.submit("/ui/send", []string{"is sent"}, "id", "it's", "body", evil, "properties", evil+"=1", "minutes", "5", "ack", "full"),
		person.submit("/ui/twin", []string{"tags: "}, "id", "it's", "tags", evil, "desired", evil),
	}
	for i, page := range pages {
		if strings.Contains(page, "<script>") || !strings.Contains(page, "alert(1)") && i != 1 {
			t.Errorf("page %d:\n%s", i, page)
		}
	}
}

var etagField = regexp.MustCompile(`name="etag" value="([^"]+)"`)

func TestTheTwinEditorSavesWhatDiffersAndNothingStale(t *testing.T) {
	hub := startHub(t, hubConfig())
	c := hub.rawConnected(t, "dev1", true)
	c.subscribe(1, 0, "$iothub/twin/PATCH/properties/desired/#")
	person := hub.openPage(t)
	etag := func() string {
		return html.UnescapeString(etagField.FindStringSubmatch(person.read(person.get("/ui/device?id=dev1"), 200))[1])
	}
	first := etag()
	person.submit("/ui/twin", []string{"saved as version 3"}, "id", "dev1", "etag", first, "tags", `{"hall":3}`, "desired", `{"a":1,"b":{"c":2,"d":3}}`)
	if p := c.expect(packets.Publish); string(p.Payload) != `{"a":1,"b":{"c":2,"d":3},"$version":2}` {
		t.Errorf("the device is told %s", p.Payload)
	}
	person.submit("/ui/twin", []string{"saved as version 4"}, "id", "dev1", "etag", etag(), "tags", `{"hall":3}`, "desired", `{"b":{"c":2,"d":4}}`)
	if p := c.expect(packets.Publish); string(p.Payload) != `{"a":null,"b":{"d":4},"$version":3}` {
		t.Errorf("of the second change the device is told %s", p.Payload)
	}
	person.submit("/ui/twin", []string{"nothing differs"}, "id", "dev1", "etag", etag(), "tags", `{"hall":3}`, "desired", `{"b":{"c":2,"d":4}}`)
	page := person.submit("/ui/twin", []string{"somebody else", `"mine"`}, "id", "dev1", "etag", first, "tags", `{}`, "desired", `{"of":"mine"}`)
	if got := html.UnescapeString(etagField.FindStringSubmatch(page)[1]); got != first {
		t.Errorf("a stale form gets the etag %s: saved again it would overwrite", got)
	}
	person.submit("/ui/twin", []string{"JSON object", "{oops"}, "id", "dev1", "etag", etag(), "tags", `{}`, "desired", `{oops`)
	person.submit("/ui/twin", []string{"desired"}, "id", "dev1", "etag", etag(), "tags", `{}`, "desired", `{"bad.name":1}`)
	person.read(person.post("/ui/twin", "id", "nobody", "tags", "{}", "desired", "{}"), 404)
	person.read(person.get("/ui/device?id=nobody"), 404)
}

func TestMethodsAreCalledAndMessagesSentFromThePage(t *testing.T) {
	hub := startHub(t, hubConfig())
	answering(t, hub, "dev1", func(name, body string) (string, string) { return "207", `{"was":"` + name + `","with":` + body + `}` })
	hub.password(t, "dev2")
	person := hub.openPage(t)
	person.submit("/ui/call", []string{"status 207", `"was": "reboot"`, `"delay": 5`}, "id", "dev1", "name", "reboot", "payload", `{"delay":5}`, "seconds", "30")
	person.submit("/ui/call", []string{"status 207", `"with": null`}, "id", "dev1", "name", "reboot", "payload", "", "seconds", "30")
	person.submit("/ui/call", []string{"DeviceNotOnline"}, "id", "dev2", "name", "reboot", "payload", "", "seconds", "5")
	person.submit("/ui/call", []string{"not JSON"}, "id", "dev1", "name", "reboot", "payload", "{oops", "seconds", "5")
	person.submit("/ui/call", []string{"5 to 300"}, "id", "dev1", "name", "reboot", "payload", "", "seconds", "1")
	person.submit("/ui/send", []string{"is sent", "1 waiting"}, "id", "dev2", "body", "open\r\nit", "properties", "line=3\r\nempty=", "minutes", "5", "ack", "full")
	person.submit("/ui/send", []string{"NAME=VALUE"}, "id", "dev2", "body", "x", "properties", "line", "minutes", "5", "ack", "full")
	person.submit("/ui/send", []string{"1 to 2880"}, "id", "dev2", "body", "x", "properties", "", "minutes", "0", "ack", "full")
	person.submit("/ui/send", []string{"ack is"}, "id", "dev2", "body", "x", "properties", "", "minutes", "5", "ack", "loud")
	if n, err := hub.PurgeCommands("dev2"); n != 1 || err != nil {
		t.Fatalf("%d messages wait, %v", n, err)
	}
	sent := hub.DeadLetters("dev2")[0].Message
	if string(sent.Body) != "open\nit" || *sent.Properties["line"] != "3" || *sent.Properties["empty"] != "" || sent.Ack != "full" || sent.Expires.IsZero() {
		t.Errorf("sent was %+v", sent)
	}
}

// piece reads server-sent events until one of this name holds part.
func piece(t *testing.T, lines *bufio.Scanner, name, part string) string {
	t.Helper()
	event, data := "", ""
	for lines.Scan() {
		field, value, _ := strings.Cut(lines.Text(), ": ")
		switch field {
		case "event":
			event, data = value, ""
		case "data":
			data += value + "\n"
		case "":
			if event == name && strings.Contains(data, part) {
				return data
			}
		}
	}
	t.Fatalf("the stream ended without a %s with %q: %v", name, part, lines.Err())
	return ""
}

func TestAnOpenPageIsToldWhatChanges(t *testing.T) {
	hub := startHub(t, hubConfig())
	hub.password(t, "dev1")
	person := hub.openPage(t)
	listen := func(query string) *bufio.Scanner {
		return bufio.NewScanner(person.get("/ui/live" + query).Body)
	}
	all, one, other := listen("?after=0"), listen("?after=0&id=dev1"), listen("?after=0&q=dev2")
	for _, lines := range []*bufio.Scanner{all, one} {
		piece(t, lines, "row", ">disconnected<")
	}
	piece(t, one, "twin", "reported")
	c := hub.rawConnected(t, "dev1", true)
	for _, lines := range []*bufio.Scanner{all, one} {
		piece(t, lines, "row", ">connected<")
	}
	c.publish(dev1Events, 1, 1, `{"temp":21}`)
	c.expectPuback(1)
	for _, lines := range []*bufio.Scanner{all, one} {
		if got := piece(t, lines, "message", "temp"); !strings.HasPrefix(got, `<li id="message-1">`) {
			t.Errorf("the message is %s", got)
		}
	}
	c.subscribe(2, 0, twinResults)
	c.publish("$iothub/twin/PATCH/properties/reported/?$rid=1", 0, 0, `{"fw":"2.0"}`)
	if got := piece(t, one, "twin", "fw"); !strings.HasPrefix(got, `<section id="twin">`) {
		t.Errorf("the twin is %s", got)
	}
	hub.password(t, "dev2")
	piece(t, other, "row", "dev2")
	if err := hub.Unregister("dev2", ""); err != nil {
		t.Fatal(err)
	}
	if got := piece(t, other, "gone", ""); got != "dev2\n" {
		t.Errorf("gone is %q", got)
	}
	hub.stop() // does not wait for those who watch
}

func TestThePageKeyLivesAsLongAsTheState(t *testing.T) {
	cfg := hubConfig()
	cfg.Dir = t.TempDir()
	key := func() string {
		hub := startHub(t, cfg)
		defer hub.stop()
		_, key, _ := strings.Cut(hub.PageURL(), "key=")
		return key
	}
	first, second := key(), key()
	cfg.Dir = t.TempDir()
	if other := key(); first != second || first == other || len(first) < 40 {
		t.Errorf("keys of one state: %s and %s; of another: %s", first, second, other)
	}
}
