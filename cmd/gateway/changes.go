package main

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"reflect"
	"slices"

	gateway "iothub-gateway"
	"iothub-gateway/internal/control"
	"iothub-gateway/mapping"
)

// trait is something that can differ between two states of a thing, with what it is called.
type trait struct {
	name  string
	value any
}

// thing is a part of a mapping as it is compared.
type thing struct {
	name   string
	traits []trait // the same ones for all things of a kind
}

// compare lists what differs between two mappings, each kind in the order of its mapping.
func compare(old, new *mapping.Plant) control.Changes {
	c := control.Changes{
		Identities: difference(identityThings(old), identityThings(new)),
		Links:      difference(linkThings(old), linkThings(new)),
		Listeners:  difference(listenerThings(old), listenerThings(new)),
		Points:     difference(pointThings(old), pointThings(new)),
		Commands:   difference(commandThings(old), commandThings(new)),
	}
	if old.Gateway != new.Gateway {
		c.Other = append(c.Other, fmt.Sprintf("the gateway itself is reported by %s, no more by %s", orNobody(new.Gateway), orNobody(old.Gateway)))
	}
	return c
}

func orNobody(id gateway.IdentityID) string {
	if id == "" {
		return "nobody"
	}
	return string(id)
}

// difference compares things of one kind by name.
func difference(old, new []thing) (d control.Difference) {
	before := make(map[string]thing, len(old))
	for _, t := range old {
		before[t.name] = t
	}
	for _, t := range new {
		was, there := before[t.name]
		delete(before, t.name)
		why := differing(was.traits, t.traits)
		switch {
		case !there:
			d.Added = append(d.Added, t.name)
		case len(why) > 0:
			d.Changed = append(d.Changed, control.Change{Name: t.name, Why: why})
		default:
			d.Untouched++
		}
	}
	for _, t := range old {
		if _, gone := before[t.name]; gone {
			d.Removed = append(d.Removed, t.name)
		}
	}
	return d
}

// differing names the traits that differ; those that only one side has are changed too.
func differing(old, new []trait) (names []string) {
	was := make(map[string]any, len(old))
	for _, t := range old {
		was[t.name] = t.value
	}
	for _, t := range new {
		value, there := was[t.name]
		delete(was, t.name)
		if !there || !equal(value, t.value) {
			names = append(names, t.name)
		}
	}
	for _, t := range old {
		if _, gone := was[t.name]; gone {
			names = append(names, t.name)
		}
	}
	return names
}

// equal tells whether two values of a trait are equal.
func equal(a, b any) bool {
	if pool, ok := a.(*x509.CertPool); ok {
		other, _ := b.(*x509.CertPool)
		return pool.Equal(other)
	}
	return reflect.DeepEqual(a, b)
}

// identityThings are identities with all that their connection is made of.
func identityThings(p *mapping.Plant) (all []thing) {
	messages, desired := map[gateway.IdentityID]bool{}, map[gateway.IdentityID][]gateway.Desired{}
	for _, m := range p.Messages {
		messages[m.Identity] = true
	}
	for _, d := range p.Desired {
		desired[d.Identity] = append(desired[d.Identity], d)
	}
	for _, id := range p.Identities {
		traits := []trait{
			{"credential", id.Credential}, {"properties", id.Properties}, {"will", id.Will}, {"model_id", id.ModelID},
			{"messages", messages[id.ID]}, {"desired", desired[id.ID]},
		}
		if id.Registration != "" {
			traits = append(traits, trait{"provisioning", p.Hub.Provisioning})
		}
		all = append(all, thing{string(id.ID), traits})
	}
	return all
}

// linkThings are links, with every device behind them as one trait.
func linkThings(p *mapping.Plant) (all []thing) {
	for _, link := range p.Links {
		devices := link.Devices
		link.Devices = nil
		var traits []trait
		if link.TLS != nil {
			traits = papersOf(link.TLS.Client)
			names := *link.TLS
			names.Client = nil
			link.TLS = &names
		}
		traits = append(traits, trait{"settings", link})
		for _, d := range devices {
			traits = append(traits, trait{"device " + d.Name, d})
		}
		all = append(all, thing{link.Name, traits})
	}
	return all
}

// papersOf are what a link shows and trusts.
func papersOf(c *tls.Config) []trait {
	if c == nil {
		return nil
	}
	var own [][]byte
	for _, pair := range c.Certificates {
		own = append(own, pair.Certificate...)
	}
	return []trait{{"certificate", own}, {"trust", c.RootCAs}}
}

// listenerThings are listeners, with every device that reports to them as one trait.
func listenerThings(p *mapping.Plant) (all []thing) {
	for _, l := range p.Listeners {
		c := l.Config
		c.Devices, c.Keys = nil, nil
		traits := []trait{{"settings", c}, {"psk_dir", l.PSKDir}}
		for _, d := range l.Devices {
			traits = append(traits, trait{"device " + d.Name, d})
		}
		all = append(all, thing{l.Name, traits})
	}
	return all
}

// whereItStands is the trait of a point that says from where and how it is read. If it changes, another thing
// may be read under the same name.
const whereItStands = "where it stands"

// source is where a point is read.
type source struct {
	at   string // address of the link, or name of the listener
	unit uint8
	// device is that of a listener without its points; point is the southbound half.
	device, point any
}

// sourcesOf are where the points of a plant are read.
func sourcesOf(p *mapping.Plant) map[gateway.PointID]source {
	all := make(map[gateway.PointID]source, len(p.Points))
	for _, link := range p.Links {
		for _, d := range link.Devices {
			for _, point := range d.Points {
				point.WriteRate, point.Poll, point.Writable = 0, 0, false
				all[point.ID] = source{at: link.Address, unit: d.Unit, point: point}
			}
		}
	}
	for _, l := range p.Listeners {
		for _, d := range l.Devices {
			points := d.Points
			d.Points = nil
			for _, point := range points {
				all[point.ID] = source{at: l.Name, device: d, point: point}
			}
		}
	}
	return all
}

// pollsOf says how points of links are asked for and written, beside where they stand.
func pollsOf(p *mapping.Plant) map[gateway.PointID][]trait {
	all := map[gateway.PointID][]trait{}
	for _, link := range p.Links {
		for _, d := range link.Devices {
			for _, point := range d.Points {
				all[point.ID] = []trait{{"poll", point.Poll}, {"write rate", point.WriteRate}}
			}
		}
	}
	return all
}

// pointThings are points with both of their halves.
func pointThings(p *mapping.Plant) (all []thing) {
	sources, polls := sourcesOf(p), pollsOf(p)
	for _, point := range p.Points {
		limits, confirm := point.Write, gateway.Confirm{}
		if limits != nil {
			rule := *limits
			confirm, rule.Confirm = rule.Confirm, confirm
			limits = &rule
		}
		all = append(all, thing{string(point.ID), append([]trait{
			{whereItStands, sources[point.ID]}, {"identity", point.Identity}, {"name", point.Field}, {"unit", point.Unit}, {"hidden", point.Hidden},
			{"report", point.Publish}, {"range", point.Range}, {"wrap", point.Wrap}, {"write", limits}, {"confirm", confirm},
		}, polls[point.ID]...)})
	}
	return all
}

// commandThings are what the cloud may ask for.
func commandThings(p *mapping.Plant) (all []thing) {
	for _, m := range p.Methods {
		all = append(all, thing{fmt.Sprintf("method %s/%s", m.Identity, m.Name), []trait{{"rule", m}}})
	}
	for _, d := range p.Desired {
		all = append(all, thing{fmt.Sprintf("desired %s/%s", d.Identity, d.Path), []trait{{"rule", d}}})
	}
	rules := map[gateway.IdentityID][]gateway.MessageRule{}
	var order []gateway.IdentityID
	for _, m := range p.Messages {
		if rules[m.Identity] == nil {
			order = append(order, m.Identity)
		}
		rules[m.Identity] = append(rules[m.Identity], m)
	}
	for _, id := range order {
		all = append(all, thing{fmt.Sprintf("messages %s", id), []trait{{"rules", rules[id]}}})
	}
	return all
}

// needRestart names the keys of a mapping that cannot change while the gateway runs, and have.
func needRestart(old, new loaded) (keys []string) {
	return differing(lastingTraits(old), lastingTraits(new))
}

// lastingTraits are what holds for as long as the process runs.
func lastingTraits(l loaded) []trait {
	h := l.plant.Hub
	return []trait{
		{"hub.host", [2]any{h.Host, h.Port}}, {"hub.transport", h.Transport}, {"hub.trust", h.Trust}, {"the certificates in hub.trust", l.roots},
		{"hub.gateway_host", [2]any{h.GatewayHost, h.GatewayPort}}, {"hub.proxy", h.Proxy}, {"hub.edge", h.Edge},
		{"hub.tier", h.Tier}, {"hub.units", h.Units}, {"buffer", l.plant.Buffer},
	}
}

// anew are the points under whose name another thing is read in the new mapping.
func anew(c control.Difference) map[gateway.PointID]bool {
	points := map[gateway.PointID]bool{}
	for _, p := range c.Changed {
		if slices.Contains(p.Why, whereItStands) {
			points[gateway.PointID(p.Name)] = true
		}
	}
	return points
}
