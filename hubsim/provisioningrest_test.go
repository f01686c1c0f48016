package hubsim_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"iothub-gateway/hubsim"
)

const dpsVersion = "?api-version=2021-10-01"

// enrollment sends a request and decodes an enrolment.
func (r *rest) enrollment(method, path, body string) (status int, e hubsim.Enrollment) {
	r.t.Helper()
	status, _, answer := r.do(method, path+dpsVersion, body)
	if status == http.StatusOK {
		if err := json.Unmarshal([]byte(answer), &e); err != nil {
			r.t.Fatalf("%s: %v", answer, err)
		}
	}
	return status, e
}

func TestEnrolmentsAreAddedShownChangedAndRemovedOverREST(t *testing.T) {
	hub := startHub(t, hubConfig())
	for _, c := range []struct{ path, id, other string }{
		{"/enrollments/boiler-7", `"registrationId":"boiler-7"`, "/enrollmentGroups/boiler-7"},
		{"/enrollmentGroups/plant-7", `"enrollmentGroupId":"plant-7"`, "/enrollments/plant-7"},
	} {
		r := hub.rest(t)
		body := `{` + c.id + `,"attestation":{"type":"symmetricKey","symmetricKey":{"primaryKey":"","secondaryKey":""}},"provisioningStatus":"enabled"}`
		status, first := r.enrollment("PUT", c.path, body)
		if status != 200 || first.ETag == "" || first.Attestation.SymmetricKey != nil || first.AllocationPolicy != "hashed" ||
			!first.ReprovisionPolicy.UpdateHubAssignment || time.Since(first.CreatedDateTimeUtc) > time.Minute {
			t.Fatalf("%d %+v", status, first)
		}
		_, _, mechanism := r.do("POST", c.path+"/attestationmechanism"+dpsVersion, "")
		var keys hubsim.Attestation
		if err := json.Unmarshal([]byte(mechanism), &keys); err != nil || keys.SymmetricKey == nil || len(keys.SymmetricKey.PrimaryKey) < 40 {
			t.Fatalf("%s %v", mechanism, err)
		}
		// What was read is changed and sent back, without keys: they stay.
		first.ProvisioningStatus = "disabled"
		text, err := json.Marshal(first)
		if err != nil {
			t.Fatal(err)
		}
		r.match = first.ETag
		status, second := r.enrollment("PUT", c.path, string(text))
		if status != 200 || second.ETag == first.ETag || second.ProvisioningStatus != "disabled" || !second.CreatedDateTimeUtc.Equal(first.CreatedDateTimeUtc) {
			t.Errorf("%d %+v", status, second)
		}
		if _, _, again := r.do("POST", c.path+"/attestationmechanism"+dpsVersion, ""); again != mechanism {
			t.Errorf("other keys: %s", again)
		}
		for _, method := range []string{"PUT", "DELETE"} { // the old etag
			if status, _, answer := r.do(method, c.path+dpsVersion, string(text)); status != 412 || !strings.Contains(answer, `"errorCode":412001`) {
				t.Errorf("%s: %d %s", method, status, answer)
			}
		}
		r.match = ""
		if status, got := r.enrollment("GET", c.path, ""); status != 200 || got.ETag != second.ETag {
			t.Errorf("%d %+v", status, got)
		}
		if status, _ := r.enrollment("GET", c.other, ""); status != 404 {
			t.Errorf("GET %s: %d", c.other, status)
		}
		r.match = `"` + second.ETag + `"`
		if status, _, answer := r.do("DELETE", c.path+dpsVersion, ""); status != 204 || answer != "" {
			t.Errorf("DELETE: %d %s", status, answer)
		}
		r.match = ""
		for _, method := range []string{"GET", "DELETE"} {
			if status, _, answer := r.do(method, c.path+dpsVersion, ""); status != 404 || !strings.Contains(answer, `"errorCode":404201`) {
				t.Errorf("%s: %d %s", method, status, answer)
			}
		}
	}
}

func TestEnrolmentsThatCannotWorkAreRefused(t *testing.T) {
	hub := startHub(t, hubConfig())
	r := hub.rest(t)
	const key = `"attestation":{"type":"symmetricKey"}`
	for body, want := range map[string]string{
		`{` + key + `}`:                      "the body is not of the enrolment",
		`{"registrationId":"b",` + key + `}`: "the body is not of the enrolment",
		`{"registrationId":"a","enrollmentGroupId":"a",` + key + `}`:                                                            "the body is not of the enrolment",
		`{"registrationId":"a"}`:                                                                                                "is not symmetricKey or x509",
		`{"registrationId":"a","attestation":{"type":"tpm"}}`:                                                                   "is not symmetricKey or x509",
		`{"registrationId":"a","attestation":{"type":"symmetricKey","symmetricKey":{"primaryKey":"short"}}}`:                    "base64 of 16 to 64 bytes",
		`{"registrationId":"a","attestation":{"type":"x509"}}`:                                                                  "clientCertificates",
		`{"registrationId":"a","provisioningStatus":"off",` + key + `}`:                                                         "provisioningStatus",
		`{"registrationId":"a","allocationPolicy":"dice",` + key + `}`:                                                          "allocationPolicy",
		`{"registrationId":"a","allocationPolicy":"custom",` + key + `}`:                                                        "webhookUrl",
		`{"registrationId":"a","iotHubHostName":"elsewhere.azure-devices.net",` + key + `}`:                                     "not linked",
		`{"registrationId":"a","initialTwin":{"tags":3},` + key + `}`:                                                           "initialTwin",
		`{"registrationId":"a","deviceId":"a b",` + key + `}`:                                                                   "deviceId",
		`{"registrationId":"a","attestation":{"type":"x509","x509":{"clientCertificates":{"primary":{"certificate":"AAAA"}}}}}`: "clientCertificates",
		`[]`: "the body is not",
	} {
		status, _, answer := r.do("PUT", "/enrollments/a"+dpsVersion, body)
		if status != 400 || !strings.Contains(answer, want) || !strings.Contains(answer, `"errorCode":400004`) {
			t.Errorf("%s: %d %s", body, status, answer)
		}
	}
	for _, id := range []string{"a b", "a.", strings.Repeat("a", 129)} {
		if _, err := hub.Enroll(hubsim.Enrollment{RegistrationID: id, Attestation: hubsim.Attestation{Type: "symmetricKey"}}); err == nil {
			t.Errorf("%q was taken", id)
		}
	}
	if all := hub.Enrollments(); len(all) != 0 {
		t.Errorf("%+v", all)
	}
}

func TestEnrolmentsAndRegistrationsAreQueriedInPages(t *testing.T) {
	hub := startHub(t, hubConfig())
	for i := range 5 {
		hub.enroll(t, fmt.Sprintf("d%d", i))
	}
	group := hub.mustEnroll(t, hubsim.Enrollment{EnrollmentGroupID: "plant-7", Attestation: hubsim.Attestation{
		Type: "symmetricKey", SymmetricKey: &hubsim.SymmetricKeys{PrimaryKey: "8isrFI1sGsIlvvFSSFRiMfCNzv21fjbE/+ah/lSh3lF8e2YG1Te7w1KpZhJFFXJrqYKi9yegxkqIChbqOS9Egw=="},
	}})
	const id, key = "sn-007-888-abc-mac-a1-b2-c3-d4-e5-f6", "Jsm0lyGpjaVYVP2g3FnmnmG9dI/9qU24wNoykUmermc="
	hub.registrant(t, id, key, nil).provision()
	r := hub.rest(t)
	count := func(path string, size string) (all, pages int) {
		for {
			request, err := http.NewRequestWithContext(t.Context(), "POST", "https://"+hub.HTTPSAddr()+path+dpsVersion, strings.NewReader(`{"query":"SELECT * FROM enrollments"}`))
			if err != nil {
				t.Fatal(err)
			}
			request.Header.Set("Authorization", r.token)
			request.Header.Set("x-ms-max-item-count", size)
			if pages > 0 {
				request.Header.Set("x-ms-continuation", r.match)
			}
			response, err := r.client.Do(request)
			if err != nil {
				t.Fatal(err)
			}
			var page []map[string]any
			if err := json.NewDecoder(response.Body).Decode(&page); err != nil {
				t.Fatal(err)
			}
			response.Body.Close()
			all, pages = all+len(page), pages+1
			if r.match = response.Header.Get("x-ms-continuation"); r.match == "" {
				return all, pages
			}
		}
	}
	for path, want := range map[string][2]int{
		"/enrollments/query": {5, 3}, "/enrollmentGroups/query": {1, 1}, "/enrollmentgroups/query": {1, 1},
		"/registrations/" + group.EnrollmentGroupID + "/query": {1, 1}, "/registrations/other/query": {0, 1},
	} {
		if all, pages := count(path, "2"); all != want[0] || pages != want[1] {
			t.Errorf("%s: %d in %d pages, want %v", path, all, pages, want)
		}
	}
	for _, body := range []string{`{"query":"DROP"}`, `{"query":"SELECT * FROM enrollments WHERE x = 1"}`} {
		if status, _, _ := r.do("POST", "/enrollments/query"+dpsVersion, body); status != 400 {
			t.Errorf("%s: %d", body, status)
		}
	}
	if status, _, answer := r.do("GET", "/registrations/"+id+dpsVersion, ""); status != 200 || !strings.Contains(answer, `"assignedHub":"contoso.azure-devices.net"`) {
		t.Errorf("%d %s", status, answer)
	}
	if status, _, _ := r.do("DELETE", "/registrations/"+id+dpsVersion, ""); status != 204 {
		t.Errorf("DELETE: %d", status)
	}
	if status, _, answer := r.do("GET", "/registrations/"+id+dpsVersion, ""); status != 404 || !strings.Contains(answer, `"errorCode":404202`) {
		t.Errorf("%d %s", status, answer)
	}
}

func TestEnrolmentsWantATokenThatMayAndAnApiVersion(t *testing.T) {
	hub := startHub(t, hubConfig())
	r := hub.rest(t)
	if status, _, answer := r.do("GET", "/enrollments/a", ""); status != 400 || !strings.Contains(answer, `"errorCode":400001`) {
		t.Errorf("%d %s", status, answer)
	}
	r.token = ""
	if status, _, answer := r.do("GET", "/enrollments/a"+dpsVersion, ""); status != 401 || !strings.Contains(answer, `"errorCode":401002`) {
		t.Errorf("%d %s", status, answer)
	}
	e := hub.enroll(t, "a")
	r.token = sign(hub.name, e.Attestation.SymmetricKey.PrimaryKey, time.Now().Add(time.Hour), "iothubowner")
	if status, _, _ := r.do("GET", "/enrollments/a"+dpsVersion, ""); status != 401 {
		t.Errorf("a device's key: %d", status)
	}
}

func TestTheServiceSideSaysWhatTheProvisioningServiceIsCalled(t *testing.T) {
	hub := startHub(t, hubConfig())
	status, _, answer := hub.rest(t).do("GET", "/hubsim/provisioning", "")
	want := fmt.Sprintf(`{"idScope":%q,"host":%q,"hubs":["contoso.azure-devices.net"]}`, hub.IDScope(), hub.MQTTAddr())
	if status != 200 || answer != want || !strings.HasPrefix(hub.IDScope(), "0ne") || len(hub.IDScope()) != 11 {
		t.Errorf("%d %s", status, answer)
	}
	local := startHub(t, hubsim.Config{})
	if _, port, _ := strings.Cut(local.MQTTAddr(), ":"); local.AssignedName() != "localhost:"+port {
		t.Error(local.AssignedName())
	}
}
