package hubsim_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"iothub-gateway/hubsim"
	"iothub-gateway/internal/testkit"
)

// twoHubs are a hub with a provisioning service and another that it may assign devices to.
func twoHubs(t *testing.T) (west, east *testHub) {
	t.Helper()
	west = startHub(t, hubsim.Config{HostName: "west.azure-devices.net"})
	east = startHub(t, hubsim.Config{HostName: "east.azure-devices.net"})
	if err := west.LinkHub(east.Link()); err != nil {
		t.Fatal(err)
	}
	return west, east
}

// twin is a device's twin, "" if the hub does not have the device.
func (h *testHub) twin(t *testing.T, device string) string {
	t.Helper()
	status, _, answer := h.rest(t).do("GET", "/twins/"+device+"?api-version=2021-04-12", "")
	if status == 404 {
		return ""
	}
	return answer
}

func TestADeviceMovesToTheHubThatItsEnrolmentNames(t *testing.T) {
	for name, c := range map[string]struct {
		policy         *hubsim.ReprovisionPolicy
		hub, substatus string
		tag, desired   string // of the twin afterwards
	}{
		"with its twin":    {nil, "east.azure-devices.net", "deviceDataMigrated", `"hall":4`, `"interval":20`},
		"without its twin": {&hubsim.ReprovisionPolicy{UpdateHubAssignment: true}, "east.azure-devices.net", "deviceDataReset", `"hall":3`, `"interval":10`},
		"never":            {&hubsim.ReprovisionPolicy{}, "west.azure-devices.net", "initialAssignment", `"hall":4`, `"interval":20`},
	} {
		t.Run(name, func(t *testing.T) {
			west, east := twoHubs(t)
			e := west.mustEnroll(t, hubsim.Enrollment{
				RegistrationID: "boiler-7", IotHubHostName: west.name, Attestation: hubsim.Attestation{Type: "symmetricKey"}, ReprovisionPolicy: c.policy,
				InitialTwin: json.RawMessage(`{"tags":{"hall":3},"properties":{"desired":{"interval":10}}}`),
			})
			key := e.Attestation.SymmetricKey.PrimaryKey
			r := west.registrant(t, "boiler-7", key, nil)
			if state := r.provision(); state.AssignedHub != west.name || state.Substatus != "initialAssignment" {
				t.Fatalf("%+v", state)
			}
			if status, _, answer := west.rest(t).do("PATCH", "/twins/boiler-7?api-version=2021-04-12", `{"tags":{"hall":4},"properties":{"desired":{"interval":20}}}`); status != 200 {
				t.Fatal(status, answer)
			}
			e.IotHubHostName = east.name
			west.mustEnroll(t, e)
			live := west.rawConnected(t, "boiler-7", true)
			state := r.provision()
			if state.AssignedHub != c.hub || state.Substatus != c.substatus || state.DeviceID != "boiler-7" {
				t.Fatalf("%+v", state)
			}
			now, old := east, west
			if c.hub == west.name {
				now, old = west, east
			} else {
				live.expectClosed() // its old hub has deleted it
			}
			if twin := now.twin(t, "boiler-7"); !strings.Contains(twin, c.tag) || !strings.Contains(twin, c.desired) {
				t.Error(twin)
			}
			if twin := old.twin(t, "boiler-7"); twin != "" {
				t.Errorf("%s has it too: %s", old.name, twin)
			}
			if !now.connects(t, "boiler-7", key) || old != now && old.connects(t, "boiler-7", key) {
				t.Error("the wrong hub lets it in")
			}
			// A device that was deleted at its hub is registered anew, as its enrolment wants it.
			if err := now.Unregister("boiler-7", ""); err != nil {
				t.Fatal(err)
			}
			if r.provision(); !strings.Contains(now.twin(t, "boiler-7"), `"hall":3`) {
				t.Error(now.twin(t, "boiler-7"))
			}
			if status, _, answer := now.rest(t).do("PATCH", "/twins/boiler-7?api-version=2021-04-12", `{"tags":{"hall":4}}`); status != 200 {
				t.Fatal(status, answer)
			}
			// Asking once more changes nothing.
			if again := r.provision(); again.AssignedHub != c.hub || !again.CreatedDateTimeUtc.Equal(state.CreatedDateTimeUtc) {
				t.Errorf("%+v", again)
			}
			if twin := now.twin(t, "boiler-7"); !strings.Contains(twin, `"hall":4`) {
				t.Error(twin)
			}
		})
	}
}

func TestAnEnrolmentMakesAnEdgeDeviceAtEitherHub(t *testing.T) {
	west, east := twoHubs(t)
	for i, hub := range []*testHub{west, east} {
		id := []string{"edge-1", "edge-2"}[i]
		e := west.mustEnroll(t, hubsim.Enrollment{
			RegistrationID: id, IotHubHostName: hub.name, Attestation: hubsim.Attestation{Type: "symmetricKey"},
			Capabilities: &hubsim.Capabilities{IotEdge: true},
		})
		west.registrant(t, id, e.Attestation.SymmetricKey.PrimaryKey, nil).provision()
		if _, _, entry := hub.rest(t).do("GET", "/devices/"+id+"?api-version=2021-04-12", ""); !strings.Contains(entry, `"capabilities":{"iotEdge":true}`) || !strings.Contains(entry, `"deviceScope":"ms-azure-iot-edge://`+id) {
			t.Errorf("%s: %s", hub.name, entry)
		}
	}
}

func TestACertificateIsTakenAlongToALinkedHub(t *testing.T) {
	west, east := twoHubs(t)
	own, pair := signer{}.issue(t, "sensor-1", false, time.Now().Add(time.Hour))
	west.mustEnroll(t, hubsim.Enrollment{RegistrationID: "sensor-1", IotHubHostName: east.name, Attestation: clientCertificate(string(own.pem()))})
	if state := west.registrant(t, "sensor-1", "", &pair).provision(); state.AssignedHub != east.name {
		t.Fatalf("%+v", state)
	}
	if code := east.withCertificate(t, "sensor-1", &pair); code != 0 {
		t.Errorf("CONNACK %d", code)
	}
}

func TestDevicesOfAGroupSpreadOverTheHubsByTheirIds(t *testing.T) {
	west, east := twoHubs(t)
	spread := west.mustEnroll(t, hubsim.Enrollment{RegistrationID: "a", Attestation: hubsim.Attestation{Type: "symmetricKey"}})
	hubs := map[string]int{}
	for _, id := range []string{"a", "b", "c", "d", "e", "f", "g", "h"} {
		spread.RegistrationID = id
		e := west.mustEnroll(t, spread)
		hubs[west.registrant(t, id, e.Attestation.SymmetricKey.PrimaryKey, nil).provision().AssignedHub]++
	}
	if hubs[west.name] == 0 || hubs[east.name] == 0 || hubs[west.name]+hubs[east.name] != 8 {
		t.Errorf("%v", hubs)
	}
	spread.RegistrationID, spread.AllocationPolicy, spread.IotHubs = "z", "static", []string{east.name, west.name}
	e := west.mustEnroll(t, spread)
	if state := west.registrant(t, "z", e.Attestation.SymmetricKey.PrimaryKey, nil).provision(); state.AssignedHub != east.name {
		t.Errorf("%+v", state)
	}
}

func TestALinkedHubThatIsNotThereFailsTheRegistrationAndNotTheService(t *testing.T) {
	west, east := twoHubs(t)
	e := west.mustEnroll(t, hubsim.Enrollment{RegistrationID: "boiler-7", IotHubHostName: east.name, Attestation: hubsim.Attestation{Type: "symmetricKey"}})
	east.stop()
	r := west.registrant(t, "boiler-7", e.Attestation.SymmetricKey.PrimaryKey, nil)
	if state := r.provision(); state.Status != "failed" || state.ErrorCode == 0 || !strings.Contains(state.ErrorMessage, "connection refused") {
		t.Errorf("%+v", state)
	}
	e.IotHubHostName = west.name
	west.mustEnroll(t, e)
	if state := r.provision(); state.Status != "assigned" || state.AssignedHub != west.name {
		t.Errorf("%+v", state)
	}
	for _, l := range []hubsim.LinkedHub{
		{}, {ConnectionString: "HostName=x"}, {ConnectionString: east.Link().ConnectionString, URL: "http://x"},
		{ConnectionString: east.Link().ConnectionString, CA: "nonsense"},
	} {
		text, err := json.Marshal(l)
		if err != nil {
			t.Fatal(err)
		}
		if status, _, answer := west.rest(t).do("POST", "/hubsim/linkedhubs", string(text)); status != 400 {
			t.Errorf("%s: %d %s", text, status, answer)
		}
	}
}

// A custom allocation is asked with what the device sent, and answers what the device is given.
func TestACustomAllocationChoosesTheHubAndHasAPayloadForTheDevice(t *testing.T) {
	west, east := twoHubs(t)
	var asked []string
	allocator := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		asked = append(asked, string(body))
		if len(asked) == 3 {
			http.Error(w, "no", http.StatusTeapot)
			return
		}
		_, _ = io.WriteString(w, `{"iotHubHostName":"east.azure-devices.net","initialTwin":{"tags":{"by":"allocator"}},"payload":{"line":3}}`)
	}))
	defer allocator.Close()
	e := west.mustEnroll(t, hubsim.Enrollment{
		RegistrationID: "boiler-7", Attestation: hubsim.Attestation{Type: "symmetricKey"}, AllocationPolicy: "custom",
		CustomAllocation: &hubsim.CustomAllocation{WebhookURL: allocator.URL, APIVersion: "2019-03-31"},
	})
	r := west.registrant(t, "boiler-7", e.Attestation.SymmetricKey.PrimaryKey, nil)
	begun := r.register(`{"registrationId":"boiler-7","payload":{"modelId":"dtmi:com:example:boiler;1"}}`)
	var state *hubsim.RegistrationState
	testkit.Eventually(t, "the service has decided", func() bool {
		state = r.poll(begun.OperationID).RegistrationState
		return state != nil
	})
	if state.AssignedHub != east.name || string(state.Payload) != `{"line":3}` || !strings.Contains(east.twin(t, "boiler-7"), `"by":"allocator"`) {
		t.Errorf("%+v", state)
	}
	var question struct {
		Individual hubsim.Enrollment `json:"individualEnrollment"`
		Device     struct {
			RegistrationID string          `json:"registrationId"`
			Payload        json.RawMessage `json:"payload"`
		} `json:"deviceRuntimeContext"`
		LinkedHubs []string `json:"linkedHubs"`
	}
	if err := json.Unmarshal([]byte(asked[0]), &question); err != nil || question.Device.RegistrationID != "boiler-7" ||
		string(question.Device.Payload) != `{"modelId":"dtmi:com:example:boiler;1"}` || len(question.LinkedHubs) != 2 || question.Individual.ETag != e.ETag {
		t.Errorf("%v %s", err, asked[0])
	}
	if strings.Contains(asked[0], e.Attestation.SymmetricKey.PrimaryKey) {
		t.Error("the allocator was told the key")
	}
	r.provision()
	if failed := r.provision(); failed.Status != "failed" || !strings.Contains(failed.ErrorMessage, "418") {
		t.Errorf("%+v", failed)
	}
}
