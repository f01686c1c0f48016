package mapping

import (
	"errors"
	"time"

	"iothub-gateway/identity"
)

// CheckSecrets looks whether the keys of a plant are where its mapping says. One that is missing is a
// warning, because a mapping is often written on another machine; one that others can read, or that
// is no key, is an error. The keys themselves are in no finding.
func CheckSecrets(p *Plant, src identity.Source) Findings {
	var found Findings
	for _, id := range p.Identities {
		f := id.written
		key, err := src.Resolve(id.Key)
		switch {
		case errors.Is(err, identity.ErrExposed):
			f.Code, f.Message = "E050", err.Error()
		case err != nil:
			f.Code, f.Message = "W052", err.Error()
		default:
			if _, err = identity.NewSAS(p.Hub.Host, id.ID, key, time.Hour); err == nil {
				continue
			}
			f.Code, f.Message = "E053", string(id.Key)+": "+err.Error()
		}
		f.Message = hideKeys(f.Message)
		found = append(found, f)
	}
	found.sort()
	return found
}
