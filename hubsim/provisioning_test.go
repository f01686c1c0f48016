package hubsim_test

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang/packets"
	"github.com/mochi-mqtt/server/v2/packets"

	"iothub-gateway/hubsim"
	"iothub-gateway/internal/testkit"
)

const registrationFilter = "$dps/registrations/res/#"

// registrant is a device that asks the provisioning service for its hub.
type registrant struct {
	*rawClient
	id string
}

// registrantConnect is a CONNECT to the hub's provisioning service; key "" is without a password.
func (h *testHub) registrantConnect(id, key string) *paho.ConnectPacket {
	p := paho.NewControlPacket(paho.Connect).(*paho.ConnectPacket)
	p.ProtocolName, p.ProtocolVersion, p.Keepalive, p.CleanSession = "MQTT", 4, 60, true
	p.ClientIdentifier, p.UsernameFlag = id, true
	p.Username = h.IDScope() + "/registrations/" + id + "/api-version=2019-03-31&ClientVersion=test%2F1"
	if key != "" {
		p.PasswordFlag = true
		p.Password = []byte(sign(url.QueryEscape(h.IDScope()+"/registrations/"+id), key, time.Now().Add(time.Hour), "registration"))
	}
	return p
}

// registrant connects a device, with a key or, if that is "", the certificate, and subscribes.
func (h *testHub) registrant(t *testing.T, id, key string, certificate *tls.Certificate) *registrant {
	t.Helper()
	cfg := &tls.Config{RootCAs: h.CAPool(), ServerName: "global.azure-devices-provisioning.net"}
	if certificate != nil {
		cfg.Certificates = []tls.Certificate{*certificate}
	}
	conn, err := tls.Dial("tcp", h.MQTTAddr(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return h.registrantOn(t, conn, h.registrantConnect(id, key))
}

func (h *testHub) registrantOn(t *testing.T, conn net.Conn, connect *paho.ConnectPacket) *registrant {
	t.Helper()
	r := &registrant{newRawClient(t, conn), connect.ClientIdentifier}
	r.sendPacket(connect)
	if ack := r.expect(packets.Connack); ack.ReasonCode != 0 || ack.SessionPresent {
		t.Fatalf("CONNACK %d, session present %v", ack.ReasonCode, ack.SessionPresent)
	}
	if granted := r.subscribe(1, 2, registrationFilter); granted[0] != 1 {
		t.Fatalf("QoS 2 was granted %d", granted[0])
	}
	return r
}

// provisioned is an answer of the service.
type provisioned struct {
	status int
	retry  int // seconds; 0 if the answer does not say

	OperationID       string                    `json:"operationId"`
	Status            string                    `json:"status"`
	ErrorCode         int                       `json:"errorCode"`
	Message           string                    `json:"message"`
	TrackingID        string                    `json:"trackingId"`
	TimestampUtc      time.Time                 `json:"timestampUtc"`
	RegistrationState *hubsim.RegistrationState `json:"registrationState"`
}

// ask publishes a request, at QoS 0 or 1, and reads its answer.
func (r *registrant) ask(qos byte, topic, rid, body string) provisioned {
	r.t.Helper()
	r.publish(topic, qos, 7, body)
	if qos > 0 {
		r.expectPuback(7)
	}
	p := r.expect(packets.Publish)
	rest, ok := strings.CutPrefix(p.TopicName, "$dps/registrations/res/")
	status, query, found := strings.Cut(rest, "/?")
	values, err := url.ParseQuery(query)
	if !ok || !found || err != nil || values.Get("$rid") != rid || p.FixedHeader.Qos != 0 {
		r.t.Fatalf("answer at QoS %d on %q to $rid %s", p.FixedHeader.Qos, p.TopicName, rid)
	}
	var answer provisioned
	if err := json.Unmarshal(p.Payload, &answer); err != nil {
		r.t.Fatalf("%s: %v", p.Payload, err)
	}
	answer.status, _ = strconv.Atoi(status)
	answer.retry, _ = strconv.Atoi(values.Get("retry-after"))
	return answer
}

func (r *registrant) register(body string) provisioned {
	r.t.Helper()
	return r.ask(1, "$dps/registrations/PUT/iotdps-register/?$rid=r1", "r1", body)
}

func (r *registrant) poll(operation string) provisioned {
	r.t.Helper()
	return r.ask(0, "$dps/registrations/GET/iotdps-get-operationstatus/?$rid=p2&operationId="+operation, "p2", " ")
}

// provision registers and polls until the operation is over.
func (r *registrant) provision() hubsim.RegistrationState {
	r.t.Helper()
	begun := r.register(fmt.Sprintf(`{"registrationId":%q}`, r.id))
	if begun.status != 202 || begun.Status != "assigning" || begun.OperationID == "" || begun.retry != 3 {
		r.t.Fatalf("register: %+v", begun)
	}
	var done provisioned
	testkit.Eventually(r.t, "the service has decided", func() bool {
		done = r.poll(begun.OperationID)
		if done.status == 202 && (done.Status != "assigning" || done.retry != 3) {
			r.t.Fatalf("poll: %+v", done)
		}
		return done.status != 202
	})
	if done.status != 200 || done.OperationID != begun.OperationID || done.RegistrationState == nil || done.Status != done.RegistrationState.Status {
		r.t.Fatalf("poll: %+v", done)
	}
	return *done.RegistrationState
}

// enroll makes an enrolment with a key for one device.
func (h *testHub) enroll(t *testing.T, id string) hubsim.Enrollment {
	t.Helper()
	e, err := h.Enroll(hubsim.Enrollment{RegistrationID: id, Attestation: hubsim.Attestation{Type: "symmetricKey"}})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func (h *testHub) mustEnroll(t *testing.T, e hubsim.Enrollment) hubsim.Enrollment {
	t.Helper()
	e, err := h.Enroll(e)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// connects tells whether a device with this key is let in at the hub.
func (h *testHub) connects(t *testing.T, device, key string) bool {
	t.Helper()
	p := paho.NewControlPacket(paho.Connect).(*paho.ConnectPacket)
	p.ProtocolName, p.ProtocolVersion, p.Keepalive, p.CleanSession = "MQTT", 4, 60, true
	p.ClientIdentifier, p.UsernameFlag, p.Username = device, true, h.user(device)
	p.PasswordFlag, p.Password = true, []byte(sign(url.QueryEscape(h.name+"/devices/"+device), key, time.Now().Add(time.Hour), ""))
	c := h.raw(t)
	c.sendPacket(p)
	return c.expect(packets.Connack).ReasonCode == 0
}

func TestAnEnrolledDeviceIsToldItsHubAndIsLetInThere(t *testing.T) {
	hub := startHub(t, hubConfig())
	e := hub.enroll(t, "boiler-7")
	for _, key := range []string{e.Attestation.SymmetricKey.PrimaryKey, e.Attestation.SymmetricKey.SecondaryKey} {
		r := hub.registrant(t, "boiler-7", key, nil)
		state := r.provision()
		if state.AssignedHub != hub.name || state.DeviceID != "boiler-7" || state.Status != "assigned" ||
			state.Substatus != "initialAssignment" || state.RegistrationID != "boiler-7" || state.ETag == "" ||
			state.CreatedDateTimeUtc.IsZero() || state.LastUpdatedDateTimeUtc.Before(state.CreatedDateTimeUtc) {
			t.Errorf("%+v", state)
		}
		r.alive()
		if !hub.connects(t, "boiler-7", key) {
			t.Error("its hub does not let it in")
		}
	}
}

func TestAnEnrolmentCanGiveTheDeviceAnotherIdAndATwin(t *testing.T) {
	hub := startHub(t, hubConfig())
	e := hub.mustEnroll(t, hubsim.Enrollment{
		RegistrationID: "sn-1", DeviceID: "Pump-1", Attestation: hubsim.Attestation{Type: "symmetricKey"},
		InitialTwin: json.RawMessage(`{"tags":{"hall":3},"properties":{"desired":{"interval":10}}}`),
	})
	key := e.Attestation.SymmetricKey.PrimaryKey
	if state := hub.registrant(t, "sn-1", key, nil).provision(); state.DeviceID != "Pump-1" {
		t.Fatalf("%+v", state)
	}
	if !hub.connects(t, "Pump-1", key) {
		t.Error("its hub does not let it in")
	}
	_, _, twin := hub.rest(t).do("GET", "/twins/Pump-1?api-version=2021-04-12", "")
	if !strings.Contains(twin, `"tags":{"hall":3}`) || !strings.Contains(twin, `"interval":10`) {
		t.Error(twin)
	}
}

// The vector of the contract (DPS-12).
func TestTheKeyOfADeviceIsDerivedFromItsGroups(t *testing.T) {
	const (
		group  = "8isrFI1sGsIlvvFSSFRiMfCNzv21fjbE/+ah/lSh3lF8e2YG1Te7w1KpZhJFFXJrqYKi9yegxkqIChbqOS9Egw=="
		id     = "sn-007-888-abc-mac-a1-b2-c3-d4-e5-f6"
		device = "Jsm0lyGpjaVYVP2g3FnmnmG9dI/9qU24wNoykUmermc="
	)
	hub := startHub(t, hubConfig())
	hub.mustEnroll(t, hubsim.Enrollment{EnrollmentGroupID: "plant-7", Attestation: hubsim.Attestation{
		Type: "symmetricKey", SymmetricKey: &hubsim.SymmetricKeys{PrimaryKey: group},
	}})
	for _, spelt := range []string{id, strings.ToUpper(id)} { // letter case does not matter
		if state := hub.registrant(t, spelt, device, nil).provision(); state.Status != "assigned" || !hub.connects(t, state.DeviceID, device) {
			t.Errorf("%s: %+v", spelt, state)
		}
	}
	if got := hub.registrant(t, "sn-008", device, nil).register("{}"); got.status != 401 {
		t.Errorf("a device with another's key: %+v", got)
	}
}

// The vector of the contract (DPS-3).
func TestTheTokenOfARegistrationIsSignedAsAHubs(t *testing.T) {
	const key = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
	if got := sign("0ne00000A0A%2Fregistrations%2Fmydev", key, time.Unix(1700000000, 0), "registration"); !strings.Contains(got, "sig=MIzBOqzK8fUNLXn%2B16d%2BmYLcCbfbHgPxhW7F4YCcJ5s%3D&") {
		t.Error(got)
	}
	cfg := hubConfig()
	cfg.Provisioning.IDScope = "0ne00000A0A"
	hub := startHub(t, cfg)
	hub.mustEnroll(t, hubsim.Enrollment{RegistrationID: "mydev", Attestation: hubsim.Attestation{
		Type: "symmetricKey", SymmetricKey: &hubsim.SymmetricKeys{PrimaryKey: key},
	}})
	for _, sr := range []string{"0ne00000A0A%2Fregistrations%2Fmydev", "0ne00000A0A%2fregistrations%2fmydev", "0ne00000A0A/registrations/mydev"} {
		for _, policy := range []string{"registration", ""} { // Python's SDK sends no skn
			connect := hub.registrantConnect("mydev", key)
			connect.Password = []byte(sign(sr, key, time.Now().Add(time.Hour), policy))
			r := hub.registrantOn(t, dialTLS(t, hub.MQTTAddr(), hub.Hub), connect)
			if state := r.provision(); state.Status != "assigned" {
				t.Errorf("%s skn=%s: %+v", sr, policy, state)
			}
		}
	}
}

func TestWhoIsNotEnrolledIsToldUnauthorized(t *testing.T) {
	hub := startHub(t, hubConfig())
	e := hub.enroll(t, "boiler-7")
	other := hub.enroll(t, "boiler-8")
	_, leaf := signer{}.issue(t, "boiler-7", false, time.Now().Add(time.Hour))
	for name, r := range map[string]*registrant{
		"another's key":         hub.registrant(t, "boiler-7", other.Attestation.SymmetricKey.PrimaryKey, nil),
		"unknown":               hub.registrant(t, "boiler-9", e.Attestation.SymmetricKey.PrimaryKey, nil),
		"a certificate instead": hub.registrant(t, "boiler-7", "", &leaf),
	} {
		got := r.register("{}")
		if got.status != 401 || got.ErrorCode != 401002 || got.Message != "Unauthorized" || got.TrackingID == "" || got.TimestampUtc.IsZero() {
			t.Errorf("%s: %+v", name, got)
		}
		r.alive()
	}
}

func TestADisabledEnrolmentAnswersDisabledAlsoForADeviceOfAnEnabledGroup(t *testing.T) {
	hub := startHub(t, hubConfig())
	group := hub.mustEnroll(t, hubsim.Enrollment{EnrollmentGroupID: "all", Attestation: hubsim.Attestation{Type: "symmetricKey"}})
	e := hub.mustEnroll(t, hubsim.Enrollment{
		RegistrationID: "stolen", ProvisioningStatus: "disabled", Attestation: hubsim.Attestation{Type: "symmetricKey"},
	})
	state := hub.registrant(t, "stolen", e.Attestation.SymmetricKey.PrimaryKey, nil).provision()
	if state.Status != "disabled" || state.AssignedHub != "" {
		t.Errorf("%+v", state)
	}
	if hub.Connected("stolen") || len(hub.Enrollments()) != 2 || hub.Enrollments()[0].ETag != group.ETag {
		t.Errorf("%+v", hub.Enrollments())
	}
	status, _, _ := hub.rest(t).do("GET", "/twins/stolen?api-version=2021-04-12", "")
	if status != 404 {
		t.Errorf("the device was registered: %d", status)
	}
}
