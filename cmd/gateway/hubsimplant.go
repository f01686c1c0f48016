package main

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"iothub-gateway/hubsim"
	"iothub-gateway/identity"
	"iothub-gateway/mapping"
)

// plantRegistrar makes the identities of a mapping known to a simulator.
type plantRegistrar struct {
	w       io.Writer // what a person has to see to
	hub     *hubsim.Hub
	secrets identity.Source
	mapping string                // the file
	edge    bool                  // the simulator is IoT Edge's runtime too
	groups  map[identity.Ref]bool // enrolled, and policies whose key is settled
}

// registerPlant makes every identity of the mapping, which may be nil, known to the hub or to its provisioning
// service, and leaves its key where the mapping looks for it. A file that is there already keeps its key,
// and the hub takes it over.
func (o *hubsimOptions) registerPlant(w io.Writer, hub *hubsim.Hub, plant *mapping.Plant) error {
	if plant == nil {
		return nil
	}
	r := plantRegistrar{w, hub, secretSource(o.mapping), o.mapping, o.WorkloadSocket != "", map[identity.Ref]bool{}}
	for _, id := range plant.Identities {
		if err := r.register(id); err != nil {
			return err
		}
	}
	return nil
}

func (r *plantRegistrar) register(id mapping.Identity) error {
	device, module := id.ID.Device(), id.ID.Module()
	switch {
	case id.Kind == mapping.Certificate:
		return r.registerCertificate(id)
	case id.Kind == mapping.GroupKey && r.groups[id.Key]:
		return nil
	case id.Kind == mapping.GroupKey:
		r.groups[id.Key] = true
		group := fmt.Sprintf("mapping-%x", sha256.Sum256([]byte(id.Key)))[:16]
		return r.settleKey("enrolment group "+group, id.Key, func(key string) (string, error) {
			return r.enroll(hubsim.Enrollment{EnrollmentGroupID: group}, key)
		})
	case id.Registration != "":
		return r.settleKey(string(id.ID), id.Key, func(key string) (string, error) {
			return r.enroll(hubsim.Enrollment{RegistrationID: id.Registration, DeviceID: device}, key)
		})
	case id.Kind == mapping.DeviceKey:
		return r.settleKey(string(id.ID), id.Key, func(key string) (string, error) {
			c, err := r.hub.RegisterWith(device, module, hubsim.Credential{PrimaryKey: key})
			return c.PrimaryKey, err
		})
	}
	if _, err := r.hub.Register(device, module); err != nil {
		return err
	}
	switch {
	case id.Kind == mapping.PolicyKey:
		return r.settlePolicy(id)
	case id.Kind != mapping.EdgeModule:
		fmt.Fprintf(r.w, "%s is registered; it proves itself by %s, which is not of this hub: to run the gateway against it, give it a sas_key\n", id.ID, id.Kind)
	case !r.edge:
		fmt.Fprintf(r.w, "%s is registered; it runs under IoT Edge: start with --workload-socket and run the gateway with the environment that is printed then\n", id.ID)
	case module == "":
		fmt.Fprintf(r.w, "%s runs under IoT Edge, as a module: add --device DEVICE/MODULE and run the gateway with the environment that is printed\n", id.ID)
	}
	return nil
}

// settlePolicy leaves the key of the policy that proves an identity where the mapping looks for it. One that is
// there already has to be this hub's.
func (r *plantRegistrar) settlePolicy(id mapping.Identity) error {
	if r.groups[id.Key] {
		return nil
	}
	r.groups[id.Key] = true
	_, own, known := strings.Cut(r.hub.PolicyConnectionString(id.Policy), "SharedAccessKey=")
	if !known {
		fmt.Fprintf(r.w, "%s proves itself by the policy %s, and this hub has iothubowner and device: name one of them in sas_policy to run the gateway against it\n", id.ID, id.Policy)
		return nil
	}
	return r.settleKey("policy "+id.Policy, id.Key, func(key string) (string, error) {
		if key != "" && key != own {
			fmt.Fprintf(r.w, "%s holds another key than the policy %s has at this hub: take it away and start again, and this one is written there\n", id.Key, id.Policy)
		}
		return own, nil
	})
}

// enroll makes an enrolment with this key, or with one that is made if it is "", and returns the key.
func (r *plantRegistrar) enroll(e hubsim.Enrollment, key string) (string, error) {
	e.Attestation = hubsim.Attestation{Type: "symmetricKey", SymmetricKey: &hubsim.SymmetricKeys{PrimaryKey: key}}
	e, err := r.hub.Enroll(e)
	if err != nil {
		return "", err
	}
	return e.Attestation.SymmetricKey.PrimaryKey, nil
}

// registerCertificate makes an identity known that proves itself with a certificate.
func (r *plantRegistrar) registerCertificate(id mapping.Identity) error {
	pair, err := r.secrets.KeyPair(id.Certificate, id.Key)
	if err != nil {
		fmt.Fprintf(r.w, "%s is not registered, because its certificate cannot be read: %v\n", id.ID, err)
		return nil
	}
	if id.Registration == "" {
		sum := sha256.Sum256(pair.Leaf.Raw)
		_, err = r.hub.RegisterWith(id.ID.Device(), id.ID.Module(), hubsim.Credential{Thumbprint: hex.EncodeToString(sum[:])})
		return err
	}
	own := &hubsim.EnrolledCertificate{Certificate: base64.StdEncoding.EncodeToString(pair.Leaf.Raw)}
	_, err = r.hub.Enroll(hubsim.Enrollment{
		RegistrationID: id.Registration, DeviceID: id.ID.Device(),
		Attestation: hubsim.Attestation{Type: "x509", X509: &hubsim.X509Attestation{ClientCertificates: &hubsim.CertificatePair{Primary: own}}},
	})
	return err
}

// settleKey gives set the key that the mapping refers to or, if it is not there, "", and writes the key that
// set returns where the mapping looks for it.
func (r *plantRegistrar) settleKey(who string, ref identity.Ref, set func(key string) (string, error)) error {
	if known, err := r.secrets.Resolve(ref); err == nil {
		_, err = set(known.Reveal())
		return err
	}
	key, err := set("")
	if err != nil {
		return err
	}
	path, isFile := strings.CutPrefix(string(ref), "file:")
	if !isFile {
		fmt.Fprintf(r.w, "%s is registered, but its key (%s) is not known here and not a file that could be written: to run the gateway against this hub, give it a file: key\n", who, ref)
		return nil
	}
	if !filepath.IsAbs(path) {
		path = filepath.Join(filepath.Dir(r.mapping), path)
	}
	if err := writeKey(path, key); err != nil {
		return fmt.Errorf("key of %s: %w", who, err)
	}
	return nil
}

// writeKey writes a key that is not there yet, readable by its owner only.
func writeKey(path, key string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = file.WriteString(key + "\n")
	return errors.Join(err, file.Close())
}
