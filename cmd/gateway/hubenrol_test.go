package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"iothub-gateway/hubsim"
	"iothub-gateway/identity"
)

func TestEnrolmentsAreAddedListedShownAndRemoved(t *testing.T) {
	hub := simulatedHub(t)
	hubLine(t, "", "enrolments", "list").wants(t, 0, "none;")
	key := strings.TrimSpace(hubLine(t, "", "enrolments", "add", "boiler-7", "--device-id", "boiler-plc").wants(t, 0, "id scope "+hub.IDScope()).out)
	groupKey := strings.TrimSpace(hubLine(t, "", "enrolments", "add", "plant-7", "--group", "--initial-twin", `{"tags":{"hall":3}}`).wants(t, 0).out)
	hubLine(t, "", "enrolments", "list").wants(t, 0, "boiler-7", "individual", "plant-7", "group", "symmetricKey")
	listed := hubLine(t, "", "enrollments", "list", "--json").wants(t, 0)
	var all []hubsim.Enrollment
	if err := json.Unmarshal([]byte(listed.out), &all); err != nil || len(all) != 2 || all[0].DeviceID != "boiler-plc" {
		t.Errorf("%v: %s", err, listed.out)
	}
	shown := hubLine(t, "", "enrolments", "show", "plant-7", "--group").wants(t, 0, `"hall": 3`)
	if strings.Contains(listed.out+shown.out, key) || strings.Contains(listed.out+shown.out, groupKey) {
		t.Error("a key is shown where nobody asked for it")
	}
	hubLine(t, "", "enrolments", "key", "boiler-7").wants(t, 0, key)
	want, err := identity.DeriveKey(identity.NewSecret(groupKey), "boiler-8")
	if err != nil {
		t.Fatal(err)
	}
	hubLine(t, "", "enrolments", "key", "plant-7", "boiler-8", "--group").wants(t, 0, want.Reveal())
	hubLine(t, "", "enrolments", "key", "plant-7", "boiler-8", "--group", "--json").wants(t, 0, `"id": "boiler-8"`)

	hubLine(t, "", "enrolments", "add", "boiler-7").wants(t, 1, "boiler-7 already")
	hubLine(t, "", "enrolments", "show", "boiler-9").wants(t, 4)
	hubLine(t, "", "enrolments", "show", "plant-7").wants(t, 4) // is a group
	hubLine(t, "", "enrolments", "key", "plant-7", "boiler-8").wants(t, 2, "--group")
	hubLine(t, "", "enrolments", "add", "x", "--group", "--device-id", "y").wants(t, 2, "--device-id")
	hubLine(t, "", "enrolments", "add", "x", "--initial-twin", "{").wants(t, 2, "not JSON")
	hubLine(t, "", "enrolments", "add", "x", "--hub", "elsewhere.example").wants(t, 1, "elsewhere.example")

	hubLine(t, "", "enrolments", "remove", "boiler-7").wants(t, 2, "boiler-7 will be removed", "--yes")
	hubLine(t, "", "enrolments", "remove", "boiler-7", "--yes").wants(t, 0, "boiler-7 is removed")
	if left := hub.Enrollments(); len(left) != 1 || left[0].EnrollmentGroupID != "plant-7" {
		t.Errorf("left are %+v", left)
	}
}

func TestAGroupIsEnrolledByTheCertificateOfItsAuthority(t *testing.T) {
	hub := simulatedHub(t)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, hub.CAPEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	hubLine(t, "", "enrolments", "add", "plant-8", "--group", "--certificate", ca, "--disabled").wants(t, 0, "plant-8 is enrolled")
	hubLine(t, "", "enrolments", "list").wants(t, 0, "x509", "disabled")
	hubLine(t, "", "enrolments", "key", "plant-8", "--group").wants(t, 1, "certificates")
	hubLine(t, "", "enrolments", "add", "plant-9", "--group", "--certificate", ca+"x").wants(t, 1, "ca.pemx")
}

func TestEnrolmentsOfARealHubAreAtItsProvisioningService(t *testing.T) {
	t.Setenv(connectionStringVariable, "HostName=plant7.azure-devices.net;SharedAccessKeyName=service;SharedAccessKey=c2VjcmV0")
	hubLine(t, "", "enrolments", "list").wants(t, 1, "azure-devices-provisioning.net")
}
