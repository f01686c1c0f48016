package mapping

import (
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"iothub-gateway/identity"
)

// CheckSecrets looks whether the keys of a plant are where its mapping says. One that is missing is a
// warning, because a mapping is often written on another machine; one that others can read, or that
// is no key, is an error. The keys themselves are in no finding.
func CheckSecrets(p *Plant, src identity.Source) Findings {
	var found Findings
	report := func(f Finding, code, message string) {
		f.Code, f.Message = code, hideKeys(message)
		found = append(found, f)
	}
	for _, id := range p.Identities {
		key, err := src.Resolve(id.Key)
		switch {
		case errors.Is(err, identity.ErrExposed):
			report(id.written, "E050", err.Error())
		case err != nil:
			report(id.written, "W052", err.Error())
		default:
			if _, err = identity.NewSAS(p.Hub.Host, id.ID, key, time.Hour); err != nil {
				report(id.written, "E053", string(id.Key)+": "+err.Error())
			}
		}
	}
	for _, k := range p.linkKeys {
		switch _, err := src.Resolve(identity.Ref(k.identity)); {
		case errors.Is(err, identity.ErrExposed):
			report(k.written, "E050", err.Error())
		case err != nil:
			report(k.written, "W052", err.Error())
		}
	}
	for _, l := range p.Listeners {
		for _, k := range l.keys {
			// The listener's own lookup, identity.Source.PSK, does not say why there is no key.
			key, err := src.Resolve(identity.Ref("file:" + filepath.Join(l.PSKDir, k.identity)))
			length := len(key.Reveal())
			switch {
			case errors.Is(err, identity.ErrExposed):
				report(k.written, "E050", err.Error())
			case err != nil:
				report(k.written, "W207", fmt.Sprintf("%s is not let in before its key is there: %s", k.identity, err))
			case length < shortestPSK:
				report(k.written, "E202", fmt.Sprintf("the key of %s has %d bytes; it takes at least %d random ones", k.identity, length, shortestPSK))
			}
		}
	}
	found.sort()
	return found
}

// shortestPSK is how long a pre-shared key must be, in bytes (COAP-43).
const shortestPSK = 16
