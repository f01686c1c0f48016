package hubsim_test

import (
	"crypto/tls"
	"encoding/base64"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	paho "github.com/eclipse/paho.mqtt.golang/packets"
	"github.com/mochi-mqtt/server/v2/packets"

	"iothub-gateway/hubsim"
	"iothub-gateway/internal/testkit"
)

func TestAConnectToTheProvisioningServiceThatCannotBeRightIsRefusedWithFive(t *testing.T) {
	hub := startHub(t, hubConfig())
	key := hub.enroll(t, "boiler-7").Attestation.SymmetricKey.PrimaryKey
	scope := hub.IDScope()
	in := time.Now().Add(time.Hour)
	for name, spoil := range map[string]func(*paho.ConnectPacket){
		"another scope":     func(p *paho.ConnectPacket) { p.Username = "0ne00000000/registrations/boiler-7/api-version=2019-03-31" },
		"another client id": func(p *paho.ConnectPacket) { p.ClientIdentifier = "boiler-8" },
		"no api-version":    func(p *paho.ConnectPacket) { p.Username = scope + "/registrations/boiler-7" },
		"no password":       func(p *paho.ConnectPacket) { p.PasswordFlag, p.Password = false, nil },
		"no token":          func(p *paho.ConnectPacket) { p.Password = []byte("secret") },
		"a token of the hub": func(p *paho.ConnectPacket) {
			p.Password = []byte(sign(url.QueryEscape(hub.name+"/devices/boiler-7"), key, in, ""))
		},
		"a token of another": func(p *paho.ConnectPacket) {
			p.Password = []byte(sign(url.QueryEscape(scope+"/registrations/boiler-8"), key, in, "registration"))
		},
		"an expired token": func(p *paho.ConnectPacket) {
			p.Password = []byte(sign(url.QueryEscape(scope+"/registrations/boiler-7"), key, time.Now().Add(-time.Minute), "registration"))
		},
		"a bad id": func(p *paho.ConnectPacket) {
			p.ClientIdentifier, p.Username = "a b", scope+"/registrations/a b/api-version=2019-03-31"
		},
	} {
		connect := hub.registrantConnect("boiler-7", key)
		spoil(connect)
		c := hub.raw(t)
		c.sendPacket(connect)
		if ack := c.expect(packets.Connack); ack.ReasonCode != 5 {
			t.Errorf("%s: CONNACK %d", name, ack.ReasonCode)
		}
		c.expectClosed()
	}
	if _, err := hub.Register("registrations", "api"); err != nil { // a device may be called so
		t.Fatal(err)
	}
	hub.rawConnected(t, "registrations/api", true).alive()
}

func TestTheProvisioningServiceHangsUpOnWhatItDoesNotKnow(t *testing.T) {
	hub := startHub(t, hubConfig())
	key := hub.enroll(t, "boiler-7").Attestation.SymmetricKey.PrimaryKey
	for name, do := range map[string]func(*registrant){
		"QoS 2":              func(r *registrant) { r.publish("$dps/registrations/PUT/iotdps-register/?$rid=1", 2, 1, "{}") },
		"telemetry":          func(r *registrant) { r.publish("devices/boiler-7/messages/events/", 0, 0, "{}") },
		"a misspelt topic":   func(r *registrant) { r.publish("$dps/registrations/PUT/register/?$rid=1", 0, 0, "{}") },
		"no request id":      func(r *registrant) { r.publish("$dps/registrations/PUT/iotdps-register/", 0, 0, "{}") },
		"a foreign filter":   func(r *registrant) { r.send(subscribePacket("devices/boiler-7/messages/devicebound/#")) },
		"a second CONNECT":   func(r *registrant) { r.sendPacket(hub.registrantConnect("boiler-7", key)) },
		"a malformed packet": func(r *registrant) { r.send([]byte{0x82, 1, 0}) },
	} {
		r := hub.registrant(t, "boiler-7", key, nil)
		do(r)
		if p, err := r.next(); err == nil {
			t.Errorf("%s: packet type %d instead of a close", name, p.FixedHeader.Type)
		}
	}
}

func subscribePacket(filter string) []byte {
	p := paho.NewControlPacket(paho.Subscribe).(*paho.SubscribePacket)
	p.MessageID, p.Topics, p.Qoss = 9, []string{filter}, []byte{0}
	return wire(p)
}

func TestARegistrationSurvivesItsConnectionAndIsAnsweredWhereItIsPolled(t *testing.T) {
	hub := startHub(t, hubConfig())
	key := hub.enroll(t, "boiler-7").Attestation.SymmetricKey.PrimaryKey
	r := hub.registrant(t, "boiler-7", key, nil)
	begun := r.register("")
	r.sendPacket(paho.NewControlPacket(paho.Disconnect))
	r.expectClosed()
	again := hub.registrant(t, "boiler-7", key, nil)
	testkit.Eventually(t, "it is assigned", func() bool { return again.poll(begun.OperationID).Status == "assigned" })
	if got := again.poll("5.0000.unknown"); got.status != 404 || got.ErrorCode == 0 {
		t.Errorf("%+v", got)
	}
	if got := again.register(`{"registrationId":"boiler-8"}`); got.status != 400 || got.ErrorCode != 400004 {
		t.Errorf("another's registration: %+v", got)
	}
	if got := again.register(`{`); got.status != 400 || got.ErrorCode != 400004 {
		t.Errorf("malformed: %+v", got)
	}
	unsubscribe := paho.NewControlPacket(paho.Unsubscribe).(*paho.UnsubscribePacket)
	unsubscribe.MessageID, unsubscribe.Topics = 3, []string{registrationFilter}
	again.sendPacket(unsubscribe)
	again.expect(packets.Unsuback)
	again.publish("$dps/registrations/PUT/iotdps-register/?$rid=1", 1, 8, "{}")
	again.expectPuback(8)
	again.alive() // nobody listens: nothing but the PINGRESP comes
}

func TestAnAssignmentTakesItsTimeAndTroubleAsksTheDeviceToComeAgain(t *testing.T) {
	cfg := hubConfig()
	cfg.Provisioning = hubsim.Provisioning{RetryAfter: 1500 * time.Millisecond, AssignAfter: 100 * time.Millisecond}
	hub := startHub(t, cfg)
	key := hub.enroll(t, "boiler-7").Attestation.SymmetricKey.PrimaryKey
	r := hub.registrant(t, "boiler-7", key, nil)
	hub.FailRegistrations("boiler-7", 429, 1)
	if got := r.register("{}"); got.status != 429 || got.retry != 2 || got.ErrorCode != 429001 {
		t.Errorf("%+v", got)
	}
	begun := r.register("{}")
	if got := r.poll(begun.OperationID); got.status != 202 || got.retry != 2 || got.OperationID != begun.OperationID {
		t.Errorf("%+v", got)
	}
	hub.FailRegistrations("", 503, 1)
	if got := r.poll(begun.OperationID); got.status != 503 || got.retry != 2 {
		t.Errorf("%+v", got)
	}
	testkit.Eventually(t, "it is assigned", func() bool { return r.poll(begun.OperationID).Status == "assigned" })
}

func TestACertificateIsProvisionedByItsEnrolmentOrItsAuthority(t *testing.T) {
	hub := startHub(t, hubConfig())
	soon := time.Now().Add(time.Hour)
	root, _ := signer{}.issue(t, "plant 7", true, soon)
	middle, middlePair := root.issue(t, "hall 3", true, soon)
	stranger, _ := signer{}.issue(t, "plant 8", true, soon)
	chain := func(leaf tls.Certificate) *tls.Certificate {
		leaf.Certificate = append(leaf.Certificate, middlePair.Certificate[0])
		return &leaf
	}
	own, ownPair := signer{}.issue(t, "sensor-1", false, soon)
	_, otherPair := signer{}.issue(t, "sensor-1", false, soon)
	_, agedPair := signer{}.issue(t, "sensor-2", false, time.Now().Add(-time.Minute))
	_, member := middle.issue(t, "sensor-3", false, soon)
	_, foreign := stranger.issue(t, "sensor-3", false, soon)
	hub.mustEnroll(t, hubsim.Enrollment{RegistrationID: "sensor-1", Attestation: clientCertificate(string(own.pem()))})
	hub.mustEnroll(t, hubsim.Enrollment{RegistrationID: "sensor-2", Attestation: clientCertificate(base64.StdEncoding.EncodeToString(agedPair.Certificate[0]))})
	hub.mustEnroll(t, hubsim.Enrollment{EnrollmentGroupID: "plant-7", Attestation: hubsim.Attestation{Type: "x509", X509: &hubsim.X509Attestation{
		SigningCertificates: &hubsim.CertificatePair{Primary: &hubsim.EnrolledCertificate{Certificate: string(root.pem())}},
	}}})
	for _, c := range []struct {
		name, id string
		pair     *tls.Certificate
		want     string // "" is assigned
	}{
		{"enrolled", "sensor-1", &ownPair, ""},
		{"not the enrolled one", "sensor-1", &otherPair, "Invalid certificate."},
		{"expired", "sensor-2", &agedPair, "Invalid certificate."},
		{"of the group", "sensor-3", chain(member), ""},
		{"without the link between", "sensor-3", &member, "CA certificate not found."},
		{"of another authority", "sensor-3", &foreign, "CA certificate not found."},
		{"with another CN", "sensor-4", chain(member), "CA certificate not found."},
	} {
		r := hub.registrant(t, c.id, "", c.pair)
		if c.want != "" {
			if got := r.register("{}"); got.status != 401 || got.ErrorCode != 401002 || got.Message != c.want {
				t.Errorf("%s: %+v", c.name, got)
			}
			continue
		}
		if state := r.provision(); state.Status != "assigned" || state.DeviceID != c.id {
			t.Errorf("%s: %+v", c.name, state)
		}
		if code := hub.withCertificate(t, c.id, c.pair); code != 0 {
			t.Errorf("%s: its hub answers CONNACK %d", c.name, code)
		}
	}
	shown := hub.Enrollments()[1].Attestation.X509.ClientCertificates.Primary.Info
	if shown == nil || shown.SubjectName != "CN=sensor-1" || len(shown.SHA256Thumbprint) != 64 {
		t.Errorf("%+v", shown)
	}
}

func clientCertificate(text string) hubsim.Attestation {
	return hubsim.Attestation{Type: "x509", X509: &hubsim.X509Attestation{
		ClientCertificates: &hubsim.CertificatePair{Primary: &hubsim.EnrolledCertificate{Certificate: text}},
	}}
}

func TestProvisioningWorksOverWebSocket(t *testing.T) {
	hub := startHub(t, hubConfig())
	key := hub.enroll(t, "boiler-7").Attestation.SymmetricKey.PrimaryKey
	socket, _, err := websocket.Dial(t.Context(), "wss://"+hub.HTTPSAddr()+"/$iothub/websocket", &websocket.DialOptions{
		HTTPClient: hub.rest(t).client, Subprotocols: []string{"mqtt"},
	})
	if err != nil {
		t.Fatal(err)
	}
	conn := websocket.NetConn(t.Context(), socket, websocket.MessageBinary)
	r := hub.registrantOn(t, conn, hub.registrantConnect("boiler-7", key))
	if state := r.provision(); state.Status != "assigned" {
		t.Errorf("%+v", state)
	}
}

func TestEnrolmentsAndAssignmentsSurviveARestart(t *testing.T) {
	cfg := hubConfig()
	cfg.Dir = t.TempDir()
	hub := startHub(t, cfg)
	key := hub.enroll(t, "boiler-7").Attestation.SymmetricKey.PrimaryKey
	first := hub.registrant(t, "boiler-7", key, nil).provision()
	hub.enroll(t, "gone")
	if status, _, answer := hub.rest(t).do("DELETE", "/enrollments/gone"+dpsVersion, ""); status != 204 {
		t.Fatal(status, answer)
	}
	scope, before := hub.IDScope(), hub.Enrollments()
	hub.stop()
	again := startHub(t, cfg)
	if after := again.Enrollments(); again.IDScope() != scope || len(after) != 1 || after[0].ETag != before[0].ETag || after[0].RegistrationState.AssignedHub != hub.name {
		t.Fatalf("%s, was %s: %+v", again.IDScope(), scope, after)
	}
	if second := again.registrant(t, "boiler-7", key, nil).provision(); !second.CreatedDateTimeUtc.Equal(first.CreatedDateTimeUtc) || second.Substatus != "initialAssignment" {
		t.Errorf("%+v, was %+v", second, first)
	}
	if !strings.HasPrefix(scope, "0ne") {
		t.Error(scope)
	}
}
