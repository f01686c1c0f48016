package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"

	gateway "iothub-gateway"
	"iothub-gateway/hubsim"
	"iothub-gateway/identity"
	"iothub-gateway/internal/testkit"
	"iothub-gateway/mapping"
)

// site is a gateway in the making: a directory for its secrets, and the hub that it will meet.
type site struct {
	t    *testing.T
	dir  string
	hub  *hubsim.Hub
	text strings.Builder // of its devices
	n    int
}

func newSite(t *testing.T, cfg hubsim.Config) *site {
	t.Helper()
	cfg.Provisioning.RetryAfter = time.Second
	hub, err := hubsim.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	testkit.Background(t, hub.Run)
	return &site{t: t, dir: t.TempDir(), hub: hub}
}

// file leaves a secret where the mapping finds it.
func (s *site) file(name, text string) string {
	s.t.Helper()
	path := filepath.Join(s.dir, name)
	if err := os.WriteFile(path+".new", []byte(text+"\n"), 0o600); err != nil {
		s.t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil { // as those who exchange secrets do
		s.t.Fatal(err)
	}
	return "file:" + name
}

// device adds one that nobody answers for: its readings are messages about that.
func (s *site) device(section string) {
	s.n++
	fmt.Fprintf(&s.text, "  d%d:\n    identity: { %s }\n    modbus: { tcp: 127.0.0.1:1, unit: %d, addressing: zero }\n    poll: 50ms\n    points: { x%d: { at: coil 0 } }\n", s.n, section, s.n, s.n)
}

// start runs the gateway of the site; hubKeys are those below hub.
func (s *site) start(hubKeys string, change func(*serviceConfig)) *service {
	s.t.Helper()
	text := "version: 1\nhub: { " + hubKeys + " }\ndevices:\n" + s.text.String()
	plant, found := mapping.Parse("site.yaml", []byte(text))
	if plant == nil {
		s.t.Fatalf("%v\n%s", found, text)
	}
	cfg := serviceConfig{
		plant: plant, mappingPath: "site.yaml", stateDir: filepath.Join(s.dir, "state"), roots: s.hub.CAPool(),
		secrets: identity.Source{Dir: s.dir}, clock: newClock(true), log: zerolog.Nop(),
	}
	change(&cfg)
	g, err := newService(cfg)
	if err != nil {
		s.t.Fatal(err)
	}
	testkit.Background(s.t, func(ctx context.Context) error { return g.Run(ctx) })
	return g
}

// delivered tells whether a message of the identity has arrived.
func (s *site) delivered(hub *hubsim.Hub, id string) bool {
	for _, m := range hub.Messages(0, 0) {
		if strings.TrimSuffix(m.Device+"/"+m.Module, "/") == id {
			return true
		}
	}
	return false
}

// certificate writes a certificate of name with its key and returns its PEM and its thumbprint.
func (s *site) certificate(name string) (text, thumbprint string) {
	s.t.Helper()
	c := testkit.Issue(s.t, nil, x509.Certificate{Subject: pkix.Name{CommonName: name}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	text, key := testkit.PEM(s.t, c)
	s.file(name+".key", key)
	s.file(name+".crt", text)
	sum := sha256.Sum256(c.Leaf.Raw)
	return text, hex.EncodeToString(sum[:])
}

// key registers a device or module and returns its key.
func (s *site) key(device, module string) string {
	s.t.Helper()
	key, err := s.hub.Register(device, module)
	if err != nil {
		s.t.Fatal(err)
	}
	return key
}

// owner is the policy that may do everything at the hub.
func (s *site) owner() (name, key string) {
	for field := range strings.SplitSeq(s.hub.ServiceConnectionString(), ";") {
		if text, ok := strings.CutPrefix(field, "SharedAccessKeyName="); ok {
			name = text
		} else if text, ok := strings.CutPrefix(field, "SharedAccessKey="); ok {
			key = text
		}
	}
	return name, key
}

// tunnelProxy is an HTTP proxy that knows CONNECT, and asks for user and password.
func tunnelProxy(t *testing.T) (address string, tunnels *atomic.Int32) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	tunnels = new(atomic.Int32)
	var open sync.WaitGroup
	serve := func(conn net.Conn) {
		defer conn.Close()
		request, err := http.ReadRequest(bufio.NewReader(conn))
		wants := "Basic " + base64.StdEncoding.EncodeToString([]byte("plant:s3cret"))
		if err != nil || request.Method != http.MethodConnect || request.Header.Get("Proxy-Authorization") != wants {
			return
		}
		far, err := net.Dial("tcp", request.RequestURI)
		if err != nil {
			return
		}
		defer far.Close()
		tunnels.Add(1)
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\n\r\n")
		go func() { _, _ = io.Copy(far, conn); far.Close() }()
		_, _ = io.Copy(conn, far)
	}
	open.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			open.Go(func() { serve(conn) })
		}
	})
	t.Cleanup(func() { listener.Close(); open.Wait() })
	return listener.Addr().String(), tunnels
}

func TestTheGatewayProvesItselfInEveryWayOverBothTransportsAndThroughAProxy(t *testing.T) {
	for _, transport := range []string{"mqtt", "websocket"} {
		s := newSite(t, hubsim.Config{})
		address := s.hub.MQTTAddr()
		if transport == "websocket" {
			address = s.hub.HTTPSAddr()
		}
		policy, key := s.owner()
		s.file("policy", key)
		s.device("device: plain, sas_key: " + s.file("plain", s.key("plain", "")))
		s.device("device: host, module: m, sas_key: " + s.file("module", s.key("host", "m")))
		s.key("by-policy", "")
		s.device("device: by-policy, sas_policy: { name: " + policy + ", key: file:policy }")
		raw, _ := base64.StdEncoding.DecodeString(s.key("token", ""))
		s.device("device: token, sas_token: " + s.file("token", identity.Token("localhost/devices/token", raw, time.Now().Add(time.Hour), "").Reveal()))
		_, thumb := s.certificate("x509")
		if _, err := s.hub.RegisterWith("x509", "", hubsim.Credential{Thumbprint: thumb}); err != nil {
			t.Fatal(err)
		}
		s.device("device: x509, certificate: file:x509.crt, private_key: file:x509.key")
		enroll := func(e hubsim.Enrollment) string {
			e, err := s.hub.Enroll(e)
			if err != nil {
				t.Fatal(err)
			}
			return e.Attestation.SymmetricKey.PrimaryKey
		}
		symmetric := hubsim.Attestation{Type: "symmetricKey"}
		s.file("group", enroll(hubsim.Enrollment{EnrollmentGroupID: "g", Attestation: symmetric}))
		s.device("device: Grp-1")
		s.device("device: single, provisioning: { id: sn-7, key: " + s.file("single", enroll(hubsim.Enrollment{RegistrationID: "sn-7", DeviceID: "renamed", Attestation: symmetric})) + " }")
		text, _ := s.certificate("cert-3")
		if _, err := s.hub.Enroll(hubsim.Enrollment{RegistrationID: "cert-3", Attestation: hubsim.Attestation{Type: "x509", X509: &hubsim.X509Attestation{
			ClientCertificates: &hubsim.CertificatePair{Primary: &hubsim.EnrolledCertificate{Certificate: text}},
		}}}); err != nil {
			t.Fatal(err)
		}
		s.device("device: cert-3, certificate: file:cert-3.crt, private_key: file:cert-3.key, provisioning: { id: cert-3 }")
		proxy, tunnels := tunnelProxy(t)
		keys := "host: localhost, transport: " + transport + ", proxy: { url: \"http://" + proxy + "\", user: plant, password: " + s.file("password", "s3cret") +
			" }, provisioning: { scope: " + s.hub.IDScope() + ", host: localhost, group_key: file:group }"
		g := s.start(keys, func(c *serviceConfig) { c.address = func(string, int) string { return address } })
		want := map[string]string{ // as the hub calls it: as the mapping does
			"plain": "plain", "host/m": "host/m", "by-policy": "by-policy", "token": "token", "x509": "x509",
			"grp-1": "Grp-1", "renamed": "single", "cert-3": "cert-3",
		}
		for id := range want {
			testkit.Eventually(s.t, id+" has delivered over "+transport, func() bool { return s.delivered(s.hub, id) })
		}
		if n := int(tunnels.Load()); n < len(want)+3 { // three ask the provisioning service too
			t.Errorf("%s: only %d connections went through the proxy", transport, n)
		}
		page, err := json.Marshal(g.Status())
		if err != nil {
			t.Fatal(err)
		}
		for _, part := range []string{
			`"proof":"device key"`, `"proof":"policy key"`, `"proof":"ready token until 20`, `"proof":"certificate until 20`, `"proof":"group key at localhost`, ` as renamed"`,
		} {
			if !strings.Contains(string(page), part) {
				t.Errorf("the status does not say %s:\n%s", part, page)
			}
		}
	}
}

func TestALaneFollowsItsIdentityToAnotherHub(t *testing.T) {
	s, second := newSite(t, hubsim.Config{}), newSite(t, hubsim.Config{HostName: "second.example"})
	if err := s.hub.LinkHub(second.hub.Link()); err != nil {
		t.Fatal(err)
	}
	e, err := s.hub.Enroll(hubsim.Enrollment{RegistrationID: "d", Attestation: hubsim.Attestation{Type: "symmetricKey"}, IotHubHostName: s.hub.AssignedName()})
	if err != nil {
		t.Fatal(err)
	}
	s.device("device: d, provisioning: { key: " + s.file("key", e.Attestation.SymmetricKey.PrimaryKey) + " }")
	// one authority for both hubs, as Azure's are
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(s.hub.CAPEM())
	roots.AppendCertsFromPEM(second.hub.CAPEM())
	g := s.start("provisioning: { scope: "+s.hub.IDScope()+", host: \""+s.hub.AssignedName()+"\" }", func(c *serviceConfig) {
		c.roots = roots
		c.address = func(host string, _ int) string {
			if host == "second.example" {
				return second.hub.MQTTAddr()
			}
			return s.hub.MQTTAddr()
		}
		c.retryMost = 50 * time.Millisecond
	})
	testkit.Eventually(s.t, "the first hub has messages", func() bool { return s.delivered(s.hub, "d") })
	e.IotHubHostName = second.hub.AssignedName()
	if _, err := s.hub.Enroll(e); err != nil {
		t.Fatal(err)
	}
	s.hub.RefuseConnects("d", 5, 1_000_000)
	s.hub.Kick("d")
	if err := g.queue.Put(t.Context(), gateway.Telemetry{Identity: "d", Body: []byte(`{"moved":true}`), Created: time.Now()}); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(s.t, "the second hub has the message", func() bool { return s.delivered(second.hub, "d") })
	if proof := g.Status().Identities[0].Proof; !strings.Contains(proof, "at second.example") {
		t.Errorf("the status says %q", proof)
	}
	if hubs := g.Status().Hubs; len(hubs) != 2 || hubs[1].Hub != "second.example" || !hubs[1].Reachable {
		t.Errorf("the status knows the hubs %+v", hubs)
	}
}

func TestAnExchangedCertificateIsTakenUpWithoutARestart(t *testing.T) {
	s := newSite(t, hubsim.Config{})
	_, thumb := s.certificate("d")
	if _, err := s.hub.RegisterWith("d", "", hubsim.Credential{Thumbprint: thumb}); err != nil {
		t.Fatal(err)
	}
	s.device("device: d, certificate: file:d.crt, private_key: file:d.key")
	s.start("host: localhost", func(c *serviceConfig) {
		c.address = func(string, int) string { return s.hub.MQTTAddr() }
		c.retryMost = 50 * time.Millisecond
	})
	testkit.Eventually(s.t, "it is connected", func() bool { return s.hub.Connected("d") })
	_, thumb = s.certificate("d")
	if _, err := s.hub.RegisterWith("d", "", hubsim.Credential{Thumbprint: thumb}); err != nil {
		t.Fatal(err)
	}
	s.hub.Kick("d")
	testkit.Eventually(s.t, "it is connected with the new certificate", func() bool { return s.hub.Connected("d") })
}

func TestAKeyThatIsRolledAtTheHubNeedsOnlyItsFileReplaced(t *testing.T) {
	s := newSite(t, hubsim.Config{})
	s.device("device: d, sas_key: " + s.file("key", s.key("d", "")))
	g := s.start("host: localhost", func(c *serviceConfig) {
		c.address = func(string, int) string { return s.hub.MQTTAddr() }
		c.retryMost = 50 * time.Millisecond
	})
	testkit.Eventually(s.t, "it is connected", func() bool { return s.hub.Connected("d") })
	rolled := base64.StdEncoding.EncodeToString(bytes.Repeat([]byte("k"), 32))
	if err := s.hub.RegisterWithKey("d", "", rolled); err != nil {
		t.Fatal(err)
	}
	s.hub.Kick("d")
	says := func(text string) func() bool {
		return func() bool { return strings.Contains(g.Status().Identities[0].LastError, text) }
	}
	testkit.Eventually(s.t, "it is refused", says("code 5"))
	s.file("key", rolled[:22])
	testkit.Eventually(s.t, "it says that half a key is none", says("file:key: the shared access key is not base64"))
	s.file("key", rolled)
	testkit.Eventually(s.t, "it is connected with the new key", func() bool { return s.hub.Connected("d") })
}

func TestTheGatewayRunsAsAnIoTEdgeModuleBesideItsLeafDevices(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "workload.sock")
	s := newSite(t, hubsim.Config{WorkloadSocket: socket})
	s.key("edge-1", "gateway")
	variables, err := s.hub.Environment("edge-1", "gateway")
	if err != nil {
		t.Fatal(err)
	}
	set := map[string]string{}
	for _, line := range variables {
		name, value, _ := strings.Cut(line, "=")
		set[name] = value
	}
	s.device("device: this, module: gateway")
	s.device("device: leaf, sas_key: " + s.file("leaf", s.key("leaf", "")))
	g := s.start("edge: auto", func(c *serviceConfig) {
		c.roots = nil // whom to trust is in the runtime's bundle
		c.environment = func(name string) (string, bool) { text, ok := set[name]; return text, ok }
	})
	for _, id := range []string{"edge-1/gateway", "leaf"} {
		testkit.Eventually(s.t, id+" has delivered", func() bool { return s.delivered(s.hub, id) })
	}
	if page := g.Status(); page.Hub != set["IOTEDGE_IOTHUBHOSTNAME"] || !strings.Contains(page.Identities[0].Proof, "IoT Edge module as edge-1/gateway") {
		t.Errorf("hub %q, proof %q", page.Hub, page.Identities[0].Proof)
	}
	if _, err := newService(serviceConfig{plant: g.cfg.plant, stateDir: t.TempDir(), clock: newClock(true), environment: func(string) (string, bool) { return "", false }}); err == nil || !strings.Contains(err.Error(), "this is no IoT Edge module") {
		t.Errorf("outside of IoT Edge: %v", err)
	}
}

func TestAnEdgeGatewayStandsBeforeTheHubAndTheNamesStayTheHubs(t *testing.T) { // CON-23
	s := newSite(t, hubsim.Config{HostName: "plant7.example"})
	s.device("device: d, sas_key: " + s.file("key", s.key("d", "")))
	host, port, err := net.SplitHostPort(s.hub.MQTTAddr())
	if err != nil || host == "" {
		t.Fatal(err)
	}
	s.start("host: plant7.example, gateway_host: localhost:"+port, func(*serviceConfig) {})
	testkit.Eventually(s.t, "it has delivered", func() bool { return s.delivered(s.hub, "d") })
}

func TestCheckCountsIdentitiesByHowTheyProveThemselves(t *testing.T) {
	plant := &mapping.Plant{}
	for _, kind := range []mapping.CredentialKind{mapping.Certificate, mapping.DeviceKey, mapping.DeviceKey} {
		plant.Identities = append(plant.Identities, mapping.Identity{Credential: mapping.Credential{Kind: kind}})
	}
	if text := identitiesBy(plant); text != "3 identities (2 by device key, 1 by certificate)" {
		t.Error(text)
	}
}
