package bridge

import (
	"context"
	"fmt"
	"strings"

	gateway "iothub-gateway"
)

// messageRule is a rule of the mapping with what Message needs to carry it out.
type messageRule struct {
	when   gateway.Property
	action *method
}

// fits tells whether a message with these properties is what the rule is about.
func (r *messageRule) fits(properties []gateway.Property) bool {
	if r.when == (gateway.Property{}) {
		return true
	}
	for _, p := range properties {
		if strings.EqualFold(p.Name, r.when.Name) && p.Value == r.when.Value {
			return true
		}
	}
	return false
}

// Message carries out a cloud-to-device message by the first rule of its identity that fits, and says what
// really happened, in the statuses and bodies of Handle. 404 "unknown" means that no rule fits; 202 that the
// write waits for its device, durably.
func (d *Down) Message(ctx context.Context, m gateway.CloudMessage) gateway.Reply {
	for _, r := range d.rules[m.Identity] {
		if r.fits(m.Properties) {
			return d.carryOut(ctx, r.action, order{payload: m.Body, id: m.ID, expires: m.Expires})
		}
	}
	return failure{status: 404, code: codeUnknown,
		text: fmt.Sprintf("no rule under messages of %s fits the message; nothing was sent", m.Identity)}.reply()
}
