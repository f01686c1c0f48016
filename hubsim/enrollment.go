package hubsim

import (
	"bytes"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Enrollment lets one device, or a group of devices, find its hub: an entry of the Device Provisioning
// Service, with the names that its REST API (2021-10-01) gives the fields.
type Enrollment struct {
	// RegistrationID names the device of an individual enrolment, EnrollmentGroupID names a group: one of
	// them. A registration id has up to 128 letters, digits and "-._:", and ends in a letter, digit or
	// dash; letter case does not matter (DPS-14).
	RegistrationID    string `json:"registrationId,omitempty"`
	EnrollmentGroupID string `json:"enrollmentGroupId,omitempty"`
	// DeviceID is the device's id at its hub, "" is the registration id. A group has none.
	DeviceID    string      `json:"deviceId,omitempty"`
	Attestation Attestation `json:"attestation"`
	// ProvisioningStatus is "enabled", which "" is too, or "disabled".
	ProvisioningStatus string `json:"provisioningStatus"`
	// IotHubHostName is the one hub for the devices, IotHubs are the hubs to choose from. With neither it
	// is every hub that the service knows.
	IotHubHostName string   `json:"iotHubHostName,omitempty"`
	IotHubs        []string `json:"iotHubs,omitempty"`
	// AllocationPolicy chooses among the hubs: "hashed", which "" and "geoLatency" are too, by the
	// registration id; "static" the first; "custom" asks CustomAllocation.
	AllocationPolicy string            `json:"allocationPolicy,omitempty"`
	CustomAllocation *CustomAllocation `json:"customAllocationDefinition,omitempty"`
	// ReprovisionPolicy is what becomes of a device that registers again; nil is both true.
	ReprovisionPolicy *ReprovisionPolicy `json:"reprovisionPolicy,omitempty"`
	// InitialTwin is {"tags": {...}, "properties": {"desired": {...}}}: the twin of a device that is assigned
	// to a hub for the first time.
	InitialTwin  json.RawMessage `json:"initialTwin,omitempty"`
	Capabilities *Capabilities   `json:"capabilities,omitempty"`
	// OptionalDeviceInformation is kept and shown.
	OptionalDeviceInformation json.RawMessage `json:"optionalDeviceInformation,omitempty"`

	// What follows is the service's; what a client sends in its place is ignored.

	ETag                   string    `json:"etag,omitempty"`
	CreatedDateTimeUtc     time.Time `json:"createdDateTimeUtc"`
	LastUpdatedDateTimeUtc time.Time `json:"lastUpdatedDateTimeUtc"`
	// RegistrationState is where the device of an individual enrolment was assigned, nil if it never was.
	RegistrationState *RegistrationState `json:"registrationState,omitempty"`
}

// Capabilities are those of the devices of an enrolment at their hub.
type Capabilities struct {
	IotEdge bool `json:"iotEdge"` // an IoT Edge device
}

// Attestation is how devices of an enrolment prove who they are.
type Attestation struct {
	// Type is "symmetricKey" or "x509". "tpm" does not work over MQTT (DPS-4).
	Type string `json:"type"`
	// SymmetricKey are the keys of the device, or those of the group, from which the devices' are derived
	// (DPS-12); a key that is left out is made. The REST side shows them at .../attestationmechanism only.
	SymmetricKey *SymmetricKeys   `json:"symmetricKey,omitempty"`
	X509         *X509Attestation `json:"x509,omitempty"`
}

// SymmetricKeys are two keys, either of which is taken: base64 of 16 to 64 bytes.
type SymmetricKeys struct {
	PrimaryKey   string `json:"primaryKey"`
	SecondaryKey string `json:"secondaryKey"`
}

// X509Attestation are the certificate of the one device, or for a group those that sign its devices'.
type X509Attestation struct {
	ClientCertificates  *CertificatePair `json:"clientCertificates,omitempty"`
	SigningCertificates *CertificatePair `json:"signingCertificates,omitempty"`
}

// CertificatePair are two certificates, either of which is taken; the second may be left out.
type CertificatePair struct {
	Primary   *EnrolledCertificate `json:"primary,omitempty"`
	Secondary *EnrolledCertificate `json:"secondary,omitempty"`
}

// EnrolledCertificate is a certificate in PEM, or base64 of its DER, and what the service reads from it.
type EnrolledCertificate struct {
	Certificate string           `json:"certificate"`
	Info        *CertificateInfo `json:"info,omitempty"`
}

// CertificateInfo is what people want to know of a certificate.
type CertificateInfo struct {
	SubjectName      string    `json:"subjectName"`
	IssuerName       string    `json:"issuerName"`
	SHA1Thumbprint   string    `json:"sha1Thumbprint"`
	SHA256Thumbprint string    `json:"sha256Thumbprint"`
	NotBeforeUtc     time.Time `json:"notBeforeUtc"`
	NotAfterUtc      time.Time `json:"notAfterUtc"`
	SerialNumber     string    `json:"serialNumber"`
	Version          int       `json:"version"`
}

// CustomAllocation is a web service that chooses the hub, as an Azure Function does.
type CustomAllocation struct {
	WebhookURL string `json:"webhookUrl"` // http or https
	APIVersion string `json:"apiVersion"`
}

// ReprovisionPolicy is what becomes of a device that registers again.
type ReprovisionPolicy struct {
	// UpdateHubAssignment chooses its hub anew; without it the device stays where it is.
	UpdateHubAssignment bool `json:"updateHubAssignment"`
	// MigrateDeviceData takes tags and desired properties along to another hub; without it the device begins
	// with the initial twin there.
	MigrateDeviceData bool `json:"migrateDeviceData"`
}

// Ways to prove who one is, as the provisioning service calls them.
const (
	attestByKey         = "symmetricKey"
	attestByCertificate = "x509"
)

const (
	statusEnabled  = "enabled"
	statusDisabled = "disabled"
)

// isGroup tells whether e is of a group.
func (e *Enrollment) isGroup() bool { return e.EnrollmentGroupID != "" }

// key is e's place in the service: letter case does not matter.
func (e *Enrollment) key() string {
	if e.isGroup() {
		return groupKey(e.EnrollmentGroupID)
	}
	return individualKey(e.RegistrationID)
}

func groupKey(id string) string { return "group/" + strings.ToLower(id) }

func individualKey(id string) string { return "individual/" + strings.ToLower(id) }

// normal checks e and fills in what a client may leave out. old is what it replaces, nil if nothing.
func (e Enrollment) normal(old *Enrollment) (Enrollment, error) {
	if (e.RegistrationID == "") == (e.EnrollmentGroupID == "") {
		return e, fmt.Errorf("an enrolment has either a registrationId or an enrollmentGroupId")
	}
	if err := checkRegistrationID(e.RegistrationID + e.EnrollmentGroupID); err != nil {
		return e, err
	}
	if e.DeviceID != "" {
		if err := checkID(e.DeviceID); err != nil || e.isGroup() {
			return e, fmt.Errorf("deviceId %q is not a device id, or of a group", e.DeviceID)
		}
	}
	var err error
	if e.ProvisioningStatus, err = oneOf("provisioningStatus", e.ProvisioningStatus, statusEnabled, statusDisabled); err != nil {
		return e, err
	}
	if e.AllocationPolicy, err = oneOf("allocationPolicy", e.AllocationPolicy, "hashed", "geoLatency", "static", "custom"); err != nil {
		return e, err
	}
	if c := e.CustomAllocation; (e.AllocationPolicy == "custom") != (c != nil && strings.HasPrefix(c.WebhookURL, "http")) {
		return e, fmt.Errorf("allocationPolicy custom wants a customAllocationDefinition with a webhookUrl, and nothing else does")
	}
	if e.ReprovisionPolicy == nil {
		e.ReprovisionPolicy = &ReprovisionPolicy{UpdateHubAssignment: true, MigrateDeviceData: true}
	}
	if len(e.InitialTwin) > 0 && string(e.InitialTwin) != "null" {
		if _, err := parseEdit(e.InitialTwin, true); err != nil {
			return e, fmt.Errorf("initialTwin: %w", err)
		}
	} else {
		e.InitialTwin = nil
	}
	e.RegistrationState = nil
	e.Attestation, err = e.Attestation.normal(e.isGroup(), old)
	return e, err
}

// oneOf is value, or the first of allowed for "".
func oneOf(name, value string, allowed ...string) (string, error) {
	if value == "" {
		return allowed[0], nil
	}
	if i := slices.IndexFunc(allowed, func(a string) bool { return strings.EqualFold(a, value) }); i >= 0 {
		return allowed[i], nil
	}
	return "", fmt.Errorf("%s is %q, not one of %s", name, value, strings.Join(allowed, ", "))
}

// checkRegistrationID accepts what DPS-14 lists.
func checkRegistrationID(id string) error {
	isWord := func(c rune) bool { return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' }
	for i, c := range id {
		if !isWord(c) && c != '-' && (!strings.ContainsRune("._:", c) || i == len(id)-1) {
			return fmt.Errorf("the id %q: letters, digits and -._: are allowed, at the end a letter, digit or dash", id)
		}
	}
	if id == "" || len(id) > 128 {
		return fmt.Errorf("the id %q: 1 to 128 characters are allowed", id)
	}
	return nil
}

// normal checks a. Keys that are left out are those of old, or made. Its error does not repeat a key.
func (a Attestation) normal(group bool, old *Enrollment) (Attestation, error) {
	switch a.Type {
	case attestByKey:
		keys := SymmetricKeys{}
		if a.SymmetricKey != nil {
			keys = *a.SymmetricKey
		}
		was := Credential{}
		if old != nil && old.Attestation.SymmetricKey != nil {
			was.PrimaryKey, was.SecondaryKey = old.Attestation.SymmetricKey.PrimaryKey, old.Attestation.SymmetricKey.SecondaryKey
		}
		c, err := Credential{PrimaryKey: keys.PrimaryKey, SecondaryKey: keys.SecondaryKey}.normal()
		if err != nil {
			return a, err
		}
		c = c.replace(was)
		return Attestation{Type: attestByKey, SymmetricKey: &SymmetricKeys{c.PrimaryKey, c.SecondaryKey}}, nil
	case attestByCertificate:
		pair, err := a.certificates(group)
		if err != nil {
			return a, err
		}
		if group {
			return Attestation{Type: attestByCertificate, X509: &X509Attestation{SigningCertificates: pair}}, nil
		}
		return Attestation{Type: attestByCertificate, X509: &X509Attestation{ClientCertificates: pair}}, nil
	}
	return a, fmt.Errorf("attestation type %q is not symmetricKey or x509", a.Type)
}

// certificates are the certificates that count, with what they say.
func (a Attestation) certificates(group bool) (*CertificatePair, error) {
	var given *CertificatePair
	name := "clientCertificates"
	if a.X509 != nil {
		given = a.X509.ClientCertificates
	}
	if group {
		given, name = nil, "signingCertificates"
		if a.X509 != nil {
			given = a.X509.SigningCertificates
		}
	}
	if given == nil || given.Primary == nil {
		return nil, fmt.Errorf("attestation x509 has no x509.%s.primary", name)
	}
	pair := &CertificatePair{}
	for _, c := range []struct{ in, out **EnrolledCertificate }{{&given.Primary, &pair.Primary}, {&given.Secondary, &pair.Secondary}} {
		if *c.in == nil || (*c.in).Certificate == "" && c.in == &given.Secondary {
			continue
		}
		certificate, err := parseEnrolled((*c.in).Certificate)
		if err != nil {
			return nil, fmt.Errorf("x509.%s: %w", name, err)
		}
		if group && !certificate.IsCA {
			return nil, fmt.Errorf("x509.%s: %q is not a certificate authority", name, certificate.Subject)
		}
		*c.out = &EnrolledCertificate{Certificate: base64.StdEncoding.EncodeToString(certificate.Raw), Info: infoOf(certificate)}
	}
	return pair, nil
}

// parseEnrolled reads PEM, base64 of PEM, or base64 of DER.
func parseEnrolled(text string) (*x509.Certificate, error) {
	der := []byte(text)
	for range 2 {
		if block, _ := pem.Decode(der); block != nil {
			return x509.ParseCertificate(block.Bytes)
		}
		decoded, err := base64.StdEncoding.DecodeString(string(bytes.TrimSpace(der)))
		if err != nil {
			break
		}
		der = decoded
	}
	return x509.ParseCertificate(der)
}

func infoOf(c *x509.Certificate) *CertificateInfo {
	return &CertificateInfo{
		SubjectName: c.Subject.String(), IssuerName: c.Issuer.String(),
		SHA1Thumbprint: fmt.Sprintf("%X", sha1.Sum(c.Raw)), SHA256Thumbprint: fmt.Sprintf("%X", sha256.Sum256(c.Raw)),
		NotBeforeUtc: c.NotBefore.UTC(), NotAfterUtc: c.NotAfter.UTC(),
		SerialNumber: fmt.Sprintf("%X", c.SerialNumber), Version: c.Version,
	}
}

// each visits the certificates that count.
func (a *Attestation) each(visit func(*x509.Certificate)) {
	if a.X509 == nil {
		return
	}
	for _, pair := range []*CertificatePair{a.X509.ClientCertificates, a.X509.SigningCertificates} {
		if pair == nil {
			continue
		}
		for _, c := range []*EnrolledCertificate{pair.Primary, pair.Secondary} {
			if c == nil {
				continue
			}
			if certificate, err := parseEnrolled(c.Certificate); err == nil {
				visit(certificate)
			}
		}
	}
}
