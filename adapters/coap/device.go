package coap

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/plgd-dev/go-coap/v3/message/codes"
	"golang.org/x/time/rate"
)

// device is a Device with what is known about it while the listener runs.
type device struct {
	Device
	segments []string // of Path
	catalog  catalog

	// Guarded by the adapter's lock.
	budget   *rate.Limiter
	heard    time.Time // when it last sent a report that could be read, or when Run began
	reported time.Time // when it last sent one; zero if it never did
	silent   bool      // its silence has been reported
	pending  bool      // and accept has not seen that yet
	full     time.Time // since when the queue has no room for its reports; zero: it has
	quiet    time.Time // not before then is its silence reported again
	faults   faults
	logged   time.Time // when a refusal was last logged
}

func newDevice(d Device, perSecond float64) *device {
	return &device{
		Device:   d,
		segments: segmentsOf(d.Path),
		catalog:  newCatalog(d.Points),
		budget:   rate.NewLimiter(rate.Limit(perSecond), max(1, int(10*perSecond))),
	}
}

// segmentsOf splits a path as it travels: one Uri-Path option a segment. "/" has none.
func segmentsOf(path string) []string {
	path = strings.TrimPrefix(path, "/")
	if path == "" {
		return nil
	}
	return strings.Split(path, "/")
}

// overdue tells whether the device has been silent for longer than it should be.
func (d *device) overdue(now time.Time) bool {
	return d.ExpectEvery > 0 && !d.silent && !d.pending && now.Sub(d.heard) > d.ExpectEvery && !now.Before(d.quiet)
}

// faults counts equal refusals in a row, so that a device that takes every refusal for "again, at
// once" can be slowed down (COAP-56).
type faults struct {
	code  codes.Code
	count int
	since time.Time
}

const (
	manyFaults  = 5
	faultWindow = time.Minute
)

// add counts a refusal and tells whether there were too many of its kind within a minute.
func (f *faults) add(code codes.Code, now time.Time) bool {
	if f.code != code || now.Sub(f.since) > faultWindow {
		*f = faults{code: code, since: now}
	}
	f.count++
	return f.count > manyFaults
}

// roster finds the device behind a request.
type roster struct {
	all        []*device
	byIdentity map[string][]*device
	byHost     map[netip.Addr][]*device
	byNet      []*device // the others on a plain listener, the narrowest network first
	paths      map[string]struct{}
}

func newRoster(cfg Config) roster {
	r := roster{
		byIdentity: make(map[string][]*device),
		byHost:     make(map[netip.Addr][]*device),
		paths:      make(map[string]struct{}),
	}
	for _, c := range cfg.Devices {
		d := newDevice(c, cfg.Limits.Rate)
		r.all = append(r.all, d)
		r.paths[strings.Join(d.segments, "\x00")] = struct{}{}
		switch {
		case !cfg.Plain:
			r.byIdentity[d.PSK] = append(r.byIdentity[d.PSK], d)
		case d.From.IsSingleIP():
			host := d.From.Addr().Unmap()
			r.byHost[host] = append(r.byHost[host], d)
		default:
			r.byNet = append(r.byNet, d)
		}
	}
	slices.SortStableFunc(r.byNet, func(a, b *device) int { return cmp.Compare(b.From.Bits(), a.From.Bits()) })
	return r
}

// candidates are the devices that an endpoint may be, the most likely first.
func (r roster) candidates(from endpoint) []*device {
	switch peer := from.(type) {
	case *session:
		return r.byIdentity[peer.identity]
	case udpPeer:
		host := peer.from.Addr().WithZone("")
		found := r.byHost[host]
		for _, d := range r.byNet {
			if d.From.Contains(host) {
				found = append(found[:len(found):len(found)], d)
			}
		}
		return found
	}
	return nil
}

// find returns the device that sends to this path from there, or why there is none (COAP-62). Known
// is one of the sender's devices, if it has any.
func (r roster) find(from endpoint, path []string) (d, known *device, refusal codes.Code) {
	candidates := r.candidates(from)
	for _, d := range candidates {
		if slices.Equal(d.segments, path) {
			return d, d, codes.Empty
		}
	}
	if len(candidates) == 0 {
		if _, authenticated := from.(*session); authenticated {
			return nil, nil, codes.Forbidden
		}
		return nil, nil, codes.Unauthorized
	}
	if _, others := r.paths[strings.Join(path, "\x00")]; others {
		return nil, candidates[0], codes.Forbidden
	}
	return nil, candidates[0], codes.NotFound
}
