package e2e

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"iothub-gateway/hubsim"
	"iothub-gateway/internal/testkit"
)

// provisioningHost is where Microsoft's SDKs find the real provisioning service.
const provisioningHost = "global.azure-devices-provisioning.net"

// provisionConfig is what azure-sdk/provision.js wants to know; it says what the fields mean.
type provisionConfig struct {
	Transport string          `json:"transport"`
	Host      string          `json:"host"`
	Scope     string          `json:"scope"`
	ID        string          `json:"id"`
	Payload   json.RawMessage `json:"payload,omitempty"`
	Key       string          `json:"key,omitempty"`
	GroupKey  string          `json:"groupKey,omitempty"`
	Cert      string          `json:"cert,omitempty"`
	CertKey   string          `json:"certKey,omitempty"`
	Send      string          `json:"send,omitempty"`
	CA        string          `json:"ca,omitempty"`
}

// provisionOutcome is what it prints.
type provisionOutcome struct {
	hubsim.RegistrationState
	Error string `json:"error"`
}

// runNode runs a script of azure-sdk to its end and decodes what it prints.
func runNode(t *testing.T, into any, environment []string, script string, args ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "node", append([]string{script}, args...)...)
	cmd.Dir = "azure-sdk"
	cmd.Env = append(os.Environ(), environment...)
	var said testkit.Log
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err == nil {
		err = json.Unmarshal(out, into)
	}
	if err != nil {
		t.Fatalf("%s: %v\n%s%s", script, err, out, said.String())
	}
}

// trustFile is a file with the authorities of hubs, for NODE_EXTRA_CA_CERTS.
func trustFile(t *testing.T, hubs ...*hubsim.Hub) string {
	t.Helper()
	var text []byte
	for _, hub := range hubs {
		text = append(text, hub.CAPEM()...)
	}
	path := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// provision runs a device against hub, of which it believes that it is the real service and the hub that it names.
func provision(t *testing.T, hub *hubsim.Hub, cfg provisionConfig) (got provisionOutcome) {
	t.Helper()
	cfg.Host, cfg.Scope, cfg.CA = provisioningHost, hub.IDScope(), string(hub.CAPEM())
	text, err := json.Marshal(cfg)
	if err != nil {
		t.Fatal(err)
	}
	runNode(t, &got, []string{
		"NODE_EXTRA_CA_CERTS=" + trustFile(t, hub), "NODE_OPTIONS=--require ./ports.js", "HUB_MQTT=" + hub.MQTTAddr(), "HUB_HTTPS=" + hub.HTTPSAddr(),
	}, "provision.js", string(text))
	return got
}

// provisioningHub is a hub whose provisioning service asks devices to poll after a second.
func provisioningHub(t *testing.T, name string) *hubsim.Hub {
	t.Helper()
	return startHubAs(t, hubsim.Config{HostName: name, Provisioning: hubsim.Provisioning{RetryAfter: time.Second}})
}

func enroll(t *testing.T, hub *hubsim.Hub, e hubsim.Enrollment) hubsim.Enrollment {
	t.Helper()
	e, err := hub.Enroll(e)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func byKey() hubsim.Attestation { return hubsim.Attestation{Type: "symmetricKey"} }

func byCertificate(group bool, text string) hubsim.Attestation {
	pair := &hubsim.CertificatePair{Primary: &hubsim.EnrolledCertificate{Certificate: text}}
	if group {
		return hubsim.Attestation{Type: "x509", X509: &hubsim.X509Attestation{SigningCertificates: pair}}
	}
	return hubsim.Attestation{Type: "x509", X509: &hubsim.X509Attestation{ClientCertificates: pair}}
}

func TestMicrosoftsSDKProvisionsADeviceThatThenSendsToItsHub(t *testing.T) {
	hub := provisioningHub(t, sdkName)
	for name, c := range map[string]struct {
		transport string
		enrolled  func() provisionConfig
	}{
		"a key": {"Mqtt", func() provisionConfig {
			e := enroll(t, hub, hubsim.Enrollment{RegistrationID: "own-key", DeviceID: "boiler", Attestation: byKey()})
			hub.FailRegistrations("own-key", 429, 1) // the SDK comes again
			return provisionConfig{ID: "own-key", Key: e.Attestation.SymmetricKey.PrimaryKey, Payload: json.RawMessage(`{"a":1}`)}
		}},
		"a group's key over WebSocket": {"MqttWs", func() provisionConfig {
			e := enroll(t, hub, hubsim.Enrollment{EnrollmentGroupID: "keys", Attestation: byKey()})
			return provisionConfig{ID: "group-key", GroupKey: e.Attestation.SymmetricKey.SecondaryKey}
		}},
		"a certificate over WebSocket": {"MqttWs", func() provisionConfig {
			leaf, key := testkit.PEM(t, issue(t, "own-certificate", nil))
			enroll(t, hub, hubsim.Enrollment{RegistrationID: "own-certificate", Attestation: byCertificate(false, leaf)})
			return provisionConfig{ID: "own-certificate", Cert: leaf, CertKey: key}
		}},
		"a certificate of a group": {"Mqtt", func() provisionConfig {
			root := issue(t, "plant 7", nil)
			text, _ := testkit.PEM(t, root)
			enroll(t, hub, hubsim.Enrollment{EnrollmentGroupID: "certificates", Attestation: byCertificate(true, text)})
			leaf, key := testkit.PEM(t, issue(t, "group-certificate", &root))
			return provisionConfig{ID: "group-certificate", Cert: leaf, CertKey: key}
		}},
	} {
		cfg := c.enrolled()
		cfg.Transport, cfg.Send = c.transport, "from "+cfg.ID
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := provision(t, hub, cfg)
			if got.Error != "" || got.AssignedHub != sdkName || got.Status != "assigned" || got.Substatus != "initialAssignment" {
				t.Fatalf("%+v", got)
			}
			arrived := 0
			for _, m := range hub.Messages(0, 100) {
				if m.Device == got.DeviceID && string(m.Body) == "from "+cfg.ID {
					arrived++
				}
			}
			if arrived != 1 {
				t.Errorf("%d messages of %s", arrived, got.DeviceID)
			}
		})
	}
}

func TestMicrosoftsSDKIsToldWhyItHasNoHub(t *testing.T) {
	hub := provisioningHub(t, sdkName)
	e := enroll(t, hub, hubsim.Enrollment{RegistrationID: "boiler", Attestation: byKey()})
	off := enroll(t, hub, hubsim.Enrollment{RegistrationID: "disabled", ProvisioningStatus: "disabled", Attestation: byKey()})
	wrong := provisionConfig{Transport: "Mqtt", ID: "boiler", Key: off.Attestation.SymmetricKey.PrimaryKey}
	stranger := issue(t, "boiler-9", nil)
	cert, key := testkit.PEM(t, stranger)
	for name, c := range map[string]struct {
		cfg  provisionConfig
		want string
	}{
		"wrong key":              {wrong, "UnauthorizedError"},
		"unknown":                {provisionConfig{Transport: "MqttWs", ID: "boiler-9", Key: e.Attestation.SymmetricKey.PrimaryKey}, "UnauthorizedError"},
		"an unknown certificate": {provisionConfig{Transport: "Mqtt", ID: "boiler-9", Cert: cert, CertKey: key}, "UnauthorizedError"},
		"disabled":               {provisionConfig{Transport: "Mqtt", ID: "disabled", Key: off.Attestation.SymmetricKey.PrimaryKey}, "status is disabled"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := provision(t, hub, c.cfg); !strings.Contains(got.Error, c.want) {
				t.Errorf("%+v, want %q", got, c.want)
			}
		})
	}
}

// Two hubs on this machine are told apart by their ports: nothing has to be redirected.
func TestMicrosoftsSDKFollowsItsEnrolmentToAnotherHub(t *testing.T) {
	west, east := provisioningHub(t, ""), provisioningHub(t, "")
	if err := west.LinkHub(east.Link()); err != nil {
		t.Fatal(err)
	}
	e := enroll(t, west, hubsim.Enrollment{RegistrationID: "boiler", IotHubHostName: west.AssignedName(), Attestation: byKey()})
	trust := trustFile(t, west, east)
	text, err := os.ReadFile(trust)
	if err != nil {
		t.Fatal(err)
	}
	for _, hub := range []*hubsim.Hub{west, east} {
		e.IotHubHostName = hub.AssignedName()
		enroll(t, west, e)
		cfg, err := json.Marshal(provisionConfig{
			Transport: "Mqtt", Host: west.AssignedName(), Scope: west.IDScope(), ID: "boiler", Key: e.Attestation.SymmetricKey.PrimaryKey,
			Send: "hello", CA: string(text),
		})
		if err != nil {
			t.Fatal(err)
		}
		var got provisionOutcome
		runNode(t, &got, []string{"NODE_EXTRA_CA_CERTS=" + trust}, "provision.js", string(cfg))
		if got.Error != "" || got.AssignedHub != hub.AssignedName() || hub.Received() != 1 {
			t.Errorf("%+v: %d messages", got, hub.Received())
		}
	}
}

func TestMicrosoftsServiceSDKManagesEnrolments(t *testing.T) {
	hub := provisioningHub(t, sdkName)
	certificate, _ := testkit.PEM(t, issue(t, "sensor-1", nil))
	var said map[string]json.RawMessage
	runNode(t, &said, []string{
		"NODE_EXTRA_CA_CERTS=" + trustFile(t, hub), "NODE_OPTIONS=--require ./ports.js", "HUB_MQTT=" + hub.MQTTAddr(), "HUB_HTTPS=" + hub.HTTPSAddr(),
	}, "enrollments.js", hub.ServiceConnectionString(), certificate)
	for step, want := range map[string]string{
		"create": `"registrationId":"boiler-7"`, "mechanism": `"primaryKey":"`, "update": `"provisioningStatus":"disabled"`,
		"stale": `{"error":"InvalidEtagError"}`, "get": `"provisioningStatus":"disabled"`, "x509": `"subjectName":"CN=sensor-1"`,
		"group": `"enrollmentGroupId":"plant-7"`, "groupMechanism": `"secondaryKey":"`, "registrations": `[]`,
		"noRegistration": `{"error":"`, "bad": `{"error":"ArgumentError"}`, "gone": `{"error":"`,
	} {
		if !strings.Contains(string(said[step]), want) {
			t.Errorf("%s: %s, want %s", step, said[step], want)
		}
	}
	for step, want := range map[string]int{"list": 2, "groups": 1} {
		var found []hubsim.Enrollment
		if err := json.Unmarshal(said[step], &found); err != nil || len(found) != want {
			t.Errorf("%s: %d, %v: %s", step, len(found), err, said[step])
		}
	}
	if left := hub.Enrollments(); len(left) != 1 || left[0].RegistrationID != "sensor-1" {
		t.Errorf("%+v", left)
	}
}
