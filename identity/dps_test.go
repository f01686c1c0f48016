package identity

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"strings"
	"testing"
	"time"

	gateway "iothub-gateway"
	"iothub-gateway/hubsim"
	"iothub-gateway/internal/dial"
	"iothub-gateway/internal/testkit"
)

// groupVector is the group key and its derived key of DPS-12.
const groupVector = "8isrFI1sGsIlvvFSSFRiMfCNzv21fjbE/+ah/lSh3lF8e2YG1Te7w1KpZhJFFXJrqYKi9yegxkqIChbqOS9Egw=="

func TestADeviceKeyIsDerivedAsTheVectorOfTheContractSays(t *testing.T) {
	key, err := DeriveKey(NewSecret(groupVector), "sn-007-888-abc-mac-a1-b2-c3-d4-e5-f6")
	if want := "Jsm0lyGpjaVYVP2g3FnmnmG9dI/9qU24wNoykUmermc="; err != nil || key.Reveal() != want {
		t.Errorf("%s, %v; want %s", key.Reveal(), err, want)
	}
	if _, err := DeriveKey(NewSecret("no base64"), "x"); err == nil {
		t.Error("a key that is none was taken")
	}
}

func TestTheTokenOfARegistrationIsSignedAsTheVectorSays(t *testing.T) {
	p := NewProvisioned(ProvisioningConfig{
		Scope: "0ne00000A0A", Registration: "MyDev", Life: time.Hour,
		Key: func() (Secret, error) { return NewSecret(vectorKey), nil },
	})
	token, _, err := p.prove(time.Unix(vectorEnd-3600, 0))
	want := "SharedAccessSignature sr=0ne00000A0A%2Fregistrations%2Fmydev&sig=MIzBOqzK8fUNLXn%2B16d%2BmYLcCbfbHgPxhW7F4YCcJ5s%3D&se=1700000000&skn=registration"
	if err != nil || token.Reveal() != want { // DPS-3
		t.Errorf("got %s, %v\nwant %s", token.Reveal(), err, want)
	}
}

// prove finds out where the device belongs and proves it there.
func prove(t *testing.T, p *Provisioned, a Attempt) (Login, error) {
	t.Helper()
	hub, err := p.Hub(t.Context(), a)
	if err != nil {
		return Login{Hub: hub}, err
	}
	login, err := p.Login(t.Context(), a)
	if err == nil && login.Hub != hub {
		t.Errorf("it belongs to %s, and the login is for %s", hub, login.Hub)
	}
	return login, err
}

// service is a hub with its provisioning service, and what a device needs to ask it.
type service struct {
	t     *testing.T
	hub   *hubsim.Hub
	state testkit.Notes
	asked int
	ws    bool
	away  bool // cannot be reached
}

func newService(t *testing.T, host string) *service {
	t.Helper()
	return newServiceAt(t, hubsim.Config{HostName: host, Provisioning: hubsim.Provisioning{RetryAfter: time.Second}})
}

func newServiceAt(t *testing.T, cfg hubsim.Config) *service {
	t.Helper()
	hub, err := hubsim.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- hub.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return &service{t: t, hub: hub}
}

// dial opens a connection to the service, or to its hub.
func (s *service) dial(ctx context.Context, host string, proof *tls.Certificate) (*dial.Conn, error) {
	if s.away {
		return nil, errors.New("no route to host")
	}
	s.asked++
	address := s.hub.MQTTAddr()
	if s.ws {
		address = s.hub.HTTPSAddr()
	}
	return dial.Hub(ctx, dial.Config{
		Address: address, ServerName: "localhost", Roots: s.hub.CAPool(), WebSocket: s.ws, Certificate: proof,
		WriteTimeout: 10 * time.Second, MaxPacket: 1 << 16,
	})
}

// device is one that is provisioned by the service.
func (s *service) device(id gateway.IdentityID, change func(*ProvisioningConfig)) *Provisioned {
	cfg := ProvisioningConfig{
		ID: id, Host: "localhost", Scope: s.hub.IDScope(), Registration: string(id), Life: time.Hour, State: &s.state, Dial: s.dial,
	}
	change(&cfg)
	return NewProvisioned(cfg)
}

func (s *service) enroll(e hubsim.Enrollment) hubsim.Enrollment {
	s.t.Helper()
	e, err := s.hub.Enroll(e)
	if err != nil {
		s.t.Fatal(err)
	}
	return e
}

func withKey(key string, group bool) func(*ProvisioningConfig) {
	return func(c *ProvisioningConfig) {
		c.Key, c.Group = func() (Secret, error) { return NewSecret(key), nil }, group
	}
}

func first() Attempt { return Attempt{Now: time.Now()} }

func TestADeviceIsProvisionedByItsKeyItsGroupOrItsCertificateOverBothTransports(t *testing.T) {
	t.Parallel() // the service asks to come again in a second
	for _, ws := range []bool{false, true} {
		s := newService(t, "localhost")
		s.ws = ws
		symmetric := hubsim.Attestation{Type: "symmetricKey"}
		one := s.enroll(hubsim.Enrollment{RegistrationID: "one", DeviceID: "renamed", Attestation: symmetric})
		group := s.enroll(hubsim.Enrollment{EnrollmentGroupID: "all", Attestation: symmetric})
		pair, text := selfSigned(t, "Cert-3")
		s.enroll(hubsim.Enrollment{RegistrationID: "cert-3", Attestation: hubsim.Attestation{Type: "x509", X509: &hubsim.X509Attestation{
			ClientCertificates: &hubsim.CertificatePair{Primary: &hubsim.EnrolledCertificate{Certificate: text}},
		}}})
		for id, c := range map[gateway.IdentityID]struct {
			change func(*ProvisioningConfig)
			device string
		}{
			"one":    {withKey(one.Attestation.SymmetricKey.PrimaryKey, false), "renamed"},
			"Grp-2":  {withKey(group.Attestation.SymmetricKey.PrimaryKey, true), "grp-2"},
			"cert-3": {func(c *ProvisioningConfig) { c.Load = func() (tls.Certificate, error) { return pair, nil } }, "cert-3"},
		} {
			login, err := prove(t, s.device(id, c.change), first())
			if err != nil {
				t.Errorf("%s over WebSocket %t: %v", id, ws, err)
				continue
			}
			if login.ClientID != c.device || login.Hub != s.hub.AssignedName() || (login.Certificate != nil) != (id == "cert-3") {
				t.Errorf("%s: client %q at %q", id, login.ClientID, login.Hub)
			}
			if want := "localhost/" + c.device + "/?api-version=" + apiVersion; login.Username != want || login.Doubt != nil {
				t.Errorf("%s: user %q, want %q; %v", id, login.Username, want, login.Doubt)
			}
		}
	}
}

func TestTheAnswerIsKeptAndAskedForAgainWhenTheHubDoesNotTakeTheDevice(t *testing.T) {
	t.Parallel() // the service asks to come again in a second
	s := newService(t, "localhost")
	group := s.enroll(hubsim.Enrollment{EnrollmentGroupID: "all", Attestation: hubsim.Attestation{Type: "symmetricKey"}})
	key := group.Attestation.SymmetricKey.PrimaryKey
	for i := range 3 { // each a start of the gateway
		if login, err := prove(t, s.device("d", withKey(key, true)), first()); err != nil || login.ClientID != "d" || s.asked != 1 {
			t.Fatalf("start %d: %q, %v; asked %d times", i, login.ClientID, err, s.asked)
		}
	}
	d := s.device("d", withKey(key, true))
	for refused, want := range []int{1, 1, 1, 2, 2, 2, 3} {
		if _, err := prove(t, d, Attempt{Now: time.Now(), Refused: refused, Failed: refused}); err != nil || s.asked != want {
			t.Errorf("after %d refusals: asked %d times, want %d; %v", refused, s.asked, want, err)
		}
	}
	if _, err := prove(t, d, Attempt{Now: time.Now(), Failed: failedBefore}); err != nil || s.asked != 4 {
		t.Errorf("a hub that cannot be reached: asked %d times, %v", s.asked, err)
	}
	if _, err := prove(t, d, Attempt{Now: time.Now(), Away: true}); err != nil || s.asked != 5 {
		t.Errorf("a hub that nobody reaches: asked %d times, %v", s.asked, err)
	}
	s.away = true
	login, err := prove(t, d, Attempt{Now: time.Now(), Refused: 3, Failed: 3})
	if err != nil || login.ClientID != "d" || login.Doubt == nil || !strings.Contains(login.Doubt.Error(), "no route to host") {
		t.Errorf("the last answer does not stand while the service is away: %+v, %v", login, err)
	}
	other := s.device("d", func(c *ProvisioningConfig) { withKey(key, true)(c); c.Scope = "0neOTHER" })
	if login, err := prove(t, other, first()); err == nil {
		t.Errorf("the answer of another scope was taken: %+v", login)
	}
}

func TestADeviceFollowsItsEnrolmentToAnotherHub(t *testing.T) {
	t.Parallel() // the service asks to come again in a second
	s, second := newService(t, "localhost"), newService(t, "second.example")
	if err := s.hub.LinkHub(second.hub.Link()); err != nil {
		t.Fatal(err)
	}
	e := hubsim.Enrollment{RegistrationID: "d", Attestation: hubsim.Attestation{Type: "symmetricKey"}, IotHubHostName: s.hub.AssignedName()}
	e = s.enroll(e)
	d := s.device("d", withKey(e.Attestation.SymmetricKey.PrimaryKey, false))
	if login, err := prove(t, d, first()); err != nil || login.Hub != s.hub.AssignedName() {
		t.Fatalf("%+v, %v", login, err)
	}
	e.IotHubHostName = second.hub.AssignedName()
	s.enroll(e)
	login, err := prove(t, d, Attempt{Now: time.Now(), Refused: 3, Failed: 3})
	if err != nil || login.Hub != second.hub.AssignedName() || !strings.HasPrefix(login.Username, "second.example/d/") {
		t.Errorf("%+v, %v", login, err)
	}
}

func TestWhatTheServiceRefusesIsSaid(t *testing.T) {
	t.Parallel() // the service asks to come again in a second
	s := newService(t, "localhost")
	symmetric := hubsim.Attestation{Type: "symmetricKey"}
	off := s.enroll(hubsim.Enrollment{RegistrationID: "off", Attestation: symmetric, ProvisioningStatus: "disabled"})
	busy := s.enroll(hubsim.Enrollment{RegistrationID: "busy", Attestation: symmetric})
	pair, _ := selfSigned(t, "late")
	for id, c := range map[gateway.IdentityID]struct {
		change func(*ProvisioningConfig)
		want   string
	}{
		"nobody": {withKey(vectorKey, false), "compare id scope, registration id and key"},
		"off":    {withKey(off.Attestation.SymmetricKey.PrimaryKey, false), "disabled"},
		"scope":  {func(c *ProvisioningConfig) { withKey(vectorKey, false)(c); c.Scope = "0neOTHER" }, "compare id scope"},
		"key":    {withKey("no base64", false), "not base64"},
		"lost":   {func(c *ProvisioningConfig) { c.Key = func() (Secret, error) { return Secret{}, ErrMissing } }, "missing"},
		"late": {func(c *ProvisioningConfig) {
			c.Load = func() (tls.Certificate, error) { pair.Leaf.NotAfter = time.Now().Add(-time.Hour); return pair, nil }
		}, "ended on"},
	} {
		login, err := prove(t, s.device(id, c.change), first())
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), string(id)) {
			t.Errorf("%s: %+v, %v; want %q", id, login, err, c.want)
		}
		if id == "nobody" && (!errors.Is(err, ErrRefused) || login.Hub != "localhost") {
			t.Errorf("%s: %+v, %v", id, login, err)
		}
	}
	s.hub.FailRegistrations("busy", 429, 2)
	pace := NewPace(ProvisioningRate)
	late := s.device("busy", func(c *ProvisioningConfig) {
		withKey(busy.Attestation.SymmetricKey.PrimaryKey, false)(c)
		c.Pace = pace
	})
	if _, err := prove(t, late, first()); err != nil {
		t.Errorf("a service that asks to come again: %v", err)
	}
}

func TestTopicsOfAnswersAreTakenApart(t *testing.T) {
	for topic, want := range map[string]provisioningTopic{
		"$dps/registrations/res/202/?$rid=1&retry-after=3":        {202, "1", 3 * time.Second},
		"$dps/registrations/res/200/?$rid=2":                      {200, "2", pollWait},
		"$dps/registrations/res/429/?$rid=3&retry-after=99999999": {429, "3", mostRetry * time.Second},
		"$dps/registrations/res/429/?$rid=3&retry-after=-1":       {429, "3", pollWait},
		"$dps/registrations/res/200/?$rid=":                       {},
		"$dps/registrations/res//?$rid=1":                         {},
		"$dps/registrations/res/200":                              {},
		"devices/d/messages/devicebound/":                         {},
	} {
		got, ok := parseProvisioningTopic(topic)
		if ok != (want.status != 0) || ok && got != want {
			t.Errorf("%s: %+v, %t", topic, got, ok)
		}
	}
	for state, good := range map[registrationState]bool{
		{AssignedHub: "h.azure-devices.net", DeviceID: "d"}: true, {AssignedHub: "localhost:8883", DeviceID: "d.1:2"}: true,
		{AssignedHub: "h/x", DeviceID: "d"}: false, {AssignedHub: "", DeviceID: "d"}: false, {AssignedHub: "h", DeviceID: ""}: false,
		{AssignedHub: "h", DeviceID: "a/b"}: false, {AssignedHub: "h", DeviceID: "a#"}: false, {AssignedHub: "h@evil", DeviceID: "d"}: false,
	} {
		if err := state.check(); (err == nil) != good {
			t.Errorf("%+v: %v", state, err)
		}
	}
}

func TestAServiceThatWantsToBeLeftAloneForLongIsNotAskedAgainAtOnce(t *testing.T) {
	t.Parallel()
	s := newServiceAt(t, hubsim.Config{Provisioning: hubsim.Provisioning{RetryAfter: 10 * time.Minute}})
	s.hub.FailRegistrations("", 429, 1)
	e := s.enroll(hubsim.Enrollment{RegistrationID: "one", Attestation: hubsim.Attestation{Type: "symmetricKey"}})
	_, err := prove(t, s.device("one", withKey(e.Attestation.SymmetricKey.PrimaryKey, false)), first())
	if err == nil || !strings.Contains(err.Error(), "busy (429) and wants to be left alone for 10m0s") {
		t.Errorf("%v", err)
	}
}

func FuzzProvisioningTopic(f *testing.F) {
	f.Add("$dps/registrations/res/202/?$rid=1&retry-after=3")
	f.Fuzz(func(t *testing.T, topic string) {
		got, ok := parseProvisioningTopic(topic)
		if ok && (got.rid == "" || got.retry < 0 || got.retry > mostRetry*time.Second || got.status < 100 || got.status > 999) {
			t.Errorf("%q: %+v", topic, got)
		}
	})
}

// selfSigned makes a certificate of name and its PEM.
func selfSigned(t *testing.T, name string) (tls.Certificate, string) {
	t.Helper()
	c := testkit.Issue(t, nil, x509.Certificate{Subject: pkix.Name{CommonName: name}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	text, _ := testkit.PEM(t, c)
	return c, text
}
