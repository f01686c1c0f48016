package bridge

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	gateway "iothub-gateway"
)

const (
	// defaultTimeout leaves the answer 5 s to reach the hub, which waits 30 s by default (METH-10).
	defaultTimeout = 25 * time.Second
	// defaultInWork is how many commands of one identity may be in work at a time.
	defaultInWork = 16
)

// Device is what a command needs of an adapter; gateway.Adapter describes both methods. Its dynamic
// type must be comparable, as a pointer is: points of one Device are read in one call.
type Device interface {
	Read(ctx context.Context, points []gateway.PointID) ([]gateway.Sample, error)
	Write(ctx context.Context, point gateway.PointID, v gateway.Value, by gateway.Confirm) error
}

// DownConfig is what commands may do, and through whom.
type DownConfig struct {
	Points   []gateway.Point
	Methods  []gateway.Method
	Messages []gateway.MessageRule
	Desired  []gateway.Desired
	// Device returns the adapter of a point, or nil if no adapter serves it now. It may be called
	// by several goroutines.
	Device func(gateway.PointID) Device
	// Timeout bounds the work of methods that give no timeout of their own; 0 means 25 s.
	Timeout time.Duration
	// InWork is how many commands of one identity may be in work at a time; 0 means 16.
	InWork int
	// Later keeps the writes that wait for their device; needed if a method or message is queued.
	Later *Later
}

// Down is the way down: commands in, truthful replies out. Its methods may be called by any number
// of goroutines.
type Down struct {
	// These never change after NewDown.
	methods map[methodKey]*method
	rules   map[gateway.IdentityID][]*messageRule
	desired map[desiredKey]*method
	queues  map[queuedKey]bool
	device  func(gateway.PointID) Device
	points  map[gateway.PointID]gateway.Point
	later   *Later
}

// queuedKey is a point that an identity may write later.
type queuedKey struct {
	identity gateway.IdentityID
	point    gateway.PointID
}

// methodKey is what a method is looked up by. Names are matched exactly.
type methodKey struct {
	identity gateway.IdentityID
	name     string
}

// method is a method of the mapping with what Handle needs to carry it out.
type method struct {
	gateway.Method
	rule    *gateway.WriteRule // of the point that is written
	confirm gateway.Confirm    // when that counts as done
	targets []target           // the points that are read
	anyBody bool               // a constant is written whatever the payload is
	require []target           // the points of Require, in its order
	inWork  chan struct{}      // holds a token per command in work; shared by the identity's methods
}

// target is a point that a method reads.
type target struct {
	gateway.Point
	key []byte // its name in the answer as a JSON string with a colon
}

// NewDown makes the way down for a plant.
func NewDown(cfg DownConfig) *Down {
	d := &Down{
		methods: make(map[methodKey]*method, len(cfg.Methods)), rules: map[gateway.IdentityID][]*messageRule{},
		desired: map[desiredKey]*method{}, queues: map[queuedKey]bool{}, device: cfg.Device,
		points: make(map[gateway.PointID]gateway.Point, len(cfg.Points)), later: cfg.Later,
	}
	for _, p := range cfg.Points {
		d.points[p.ID] = p
	}
	slots := make(map[gateway.IdentityID]chan struct{})
	prepare := func(m gateway.Method) *method {
		if slots[m.Identity] == nil {
			slots[m.Identity] = make(chan struct{}, cmp.Or(cfg.InWork, defaultInWork))
		}
		m.Timeout = cmp.Or(m.Timeout, cfg.Timeout, defaultTimeout)
		if m.Queued > 0 {
			d.queues[queuedKey{m.Identity, m.Write}] = true
		}
		return &method{Method: m, rule: d.points[m.Write].Write, confirm: d.confirmOf(m), targets: targetsOf(m.Read, d.points),
			require: targetsOf(pointsOf(m.Require), d.points), inWork: slots[m.Identity]}
	}
	for _, m := range cfg.Methods {
		d.methods[methodKey{m.Identity, m.Name}] = prepare(m)
	}
	for _, r := range cfg.Messages {
		m := prepare(gateway.Method{Identity: r.Identity, Write: r.Write, From: r.From, Value: r.Value, Queued: r.Queued})
		m.anyBody = true
		d.rules[r.Identity] = append(d.rules[r.Identity], &messageRule{when: r.When, action: m})
	}
	for _, p := range cfg.Desired {
		m := prepare(gateway.Method{Identity: p.Identity, Name: p.Path, Write: p.Write, Confirm: p.Confirm})
		m.targets = targetsOf([]gateway.PointID{p.Write}, d.points)
		d.desired[desiredKey{p.Identity, p.Path}] = m
	}
	return d
}

// confirmOf is when the write of a method counts as done.
func (d *Down) confirmOf(m gateway.Method) gateway.Confirm {
	rule := d.points[m.Write].Write
	switch {
	case m.Confirm != nil:
		return *m.Confirm
	case rule != nil:
		return rule.Confirm
	}
	return gateway.Confirm{}
}

// targetsOf names the points that a method reads: by their field, or by their id where two of them
// have the same field because they are not of one identity. A point listed twice is read once.
func targetsOf(ids []gateway.PointID, points map[gateway.PointID]gateway.Point) []target {
	var targets []target
	users := make(map[string]int)
	for i, id := range ids {
		if slices.Contains(ids[:i], id) {
			continue
		}
		p := points[id]
		p.ID = id // also of a point that the plant does not have: its reading says so
		targets = append(targets, target{Point: p})
		users[p.Field]++
	}
	for i, t := range targets {
		name := t.Field
		if name == "" || users[name] > 1 {
			name = string(t.ID)
		}
		targets[i].key = append(appendText(nil, name), ':')
	}
	return targets
}

// Handle carries a command out, or refuses it, and says what really happened (MAP-33):
//
//	200  {"point":"boiler/setpoint","written":65,"confirmed":"read-back","t":"..."}  done: the point
//	     reads what was written. "boiler/flow": that point has the value. "sent": the device has
//	     answered that it did it, and nobody looked
//	202  {"point":"boiler/setpoint","waiting":65,"expires":"..."}  it waits for its device, durably
//	200  {"values":{...},"quality":{"field":"comm: ..."},"t":"..."}  at least one point was read;
//	     quality names those that were not, and is left out if there are none
//	400  "bad-argument"  the payload or its value is not allowed; nothing was sent
//	403  "read-only"     the cloud may not write the point; nothing was sent
//	404  "unknown"       no such method of the identity, or no adapter serves its point
//	409  "not-met"       a point does not have the value that the mapping requires; nothing was sent
//	429  "busy"          too many commands of the identity are in work, or the point is written too often; nothing was sent
//	500  "refused"       the device said no; "exception" holds its protocol, code and name
//	500  "failed"        the points could not be read for a reason of the gateway's own
//	503  "stopping"      ctx was cancelled; nothing was sent
//	504  "no-answer"     the device cannot be reached; nothing was written
//	504  "uncertain"     the write was sent, or may have been, and is not confirmed: the device may
//	     have executed it
//
// Everything but 200 has the body {"error":"...","code":"...","point":"..."}, code being the quoted
// word; point is left out where the trouble is not a point's. t is RFC 3339 in UTC with milliseconds:
// when it was confirmed, or the newest reading. A body is at most 128 KiB (METH-8).
//
// Handle returns when the device has answered or the method's timeout is over; a Device that ignores
// its ctx delays it.
func (d *Down) Handle(ctx context.Context, c gateway.Command) gateway.Reply {
	m := d.methods[methodKey{c.Identity, c.Name}]
	if m == nil {
		return failure{status: 404, code: codeUnknown,
			text: fmt.Sprintf("the mapping gives %s no method %q; it has %s", c.Identity, cut(c.Name), d.methodNames(c.Identity))}.reply()
	}
	return d.carryOut(ctx, m, order{payload: c.Payload, id: c.Name})
}

// methodNames lists the methods of an identity, for who called another.
func (d *Down) methodNames(id gateway.IdentityID) string {
	var names []string
	for key := range d.methods {
		if key.identity == id {
			names = append(names, key.name)
		}
	}
	slices.Sort(names)
	return cmp.Or(strings.Join(names, ", "), "none")
}

// order is what the cloud gives a method or a rule to work with.
type order struct {
	payload []byte
	id      string    // the method's name, or the message id
	expires time.Time // zero: never
}

// carryOut does what a method or a rule says, as one of the commands of its identity.
func (d *Down) carryOut(ctx context.Context, m *method, o order) gateway.Reply {
	if stopping(ctx) {
		return failure{status: 503, code: codeStopping, text: "the gateway is stopping; nothing was sent"}.reply()
	}
	select {
	case m.inWork <- struct{}{}:
		defer func() { <-m.inWork }()
	default:
		return failure{status: 429, code: codeBusy,
			text: fmt.Sprintf("%d commands of %s are in work; nothing was sent, try again", cap(m.inWork), m.Identity)}.reply()
	}
	if len(m.Read) > 0 {
		return d.read(ctx, m, o.payload)
	}
	return d.write(ctx, m, o)
}

// stopping tells whether the caller gave up because everything is ending, as opposed to a deadline.
func stopping(ctx context.Context) bool { return errors.Is(ctx.Err(), context.Canceled) }

// write carries out what writes a point.
func (d *Down) write(ctx context.Context, m *method, o order) gateway.Reply {
	id := m.Write
	if m.rule == nil {
		return writeFailure(ctx, id, fmt.Errorf("bridge: %s: %w", id, gateway.ErrReadOnly)).reply()
	}
	v, err := m.argument(o.payload)
	if err != nil {
		return failure{status: 400, code: codeBadArgument, text: err.Error(), point: id}.reply()
	}
	if m.Queued > 0 {
		return d.queue(ctx, m, v, o)
	}
	if f := d.unmet(ctx, m); f != nil {
		return f.reply()
	}
	if f := d.put(ctx, m, v); f != nil {
		return f.reply()
	}
	return written(id, v, m.confirm, time.Now())
}

func noAdapter(id gateway.PointID) error {
	return fmt.Errorf("bridge: no adapter serves %s: %w", id, gateway.ErrUnknownPoint)
}

// read carries out a method that reads points.
func (d *Down) read(ctx context.Context, m *method, payload []byte) gateway.Reply {
	if err := m.noArgument(payload); err != nil {
		return failure{status: 400, code: codeBadArgument, text: err.Error()}.reply()
	}
	work, cancel := context.WithTimeout(ctx, m.Timeout)
	defer cancel()
	samples := d.fetch(work, m.targets)
	for i, t := range m.targets {
		s, keep := judge(t.Range, clean(samples[i]))
		if !keep {
			s.Value = gateway.Value{}
		}
		samples[i] = s
	}
	return readings(ctx, m.targets, samples)
}

// fetch reads the targets, each Device in one call and all Devices at the same time: a dead line
// does not use up the time of the others. It returns one sample per target, in their order.
func (d *Down) fetch(ctx context.Context, targets []target) []gateway.Sample {
	samples := make([]gateway.Sample, len(targets))
	byDevice := make(map[Device][]int)
	for i, t := range targets {
		if device := d.device(t.ID); device != nil {
			byDevice[device] = append(byDevice[device], i)
		} else {
			samples[i] = gateway.Sample{Point: t.ID, Err: noAdapter(t.ID)}
		}
	}
	var all sync.WaitGroup
	for device, indices := range byDevice {
		all.Go(func() {
			ids := make([]gateway.PointID, len(indices))
			for k, i := range indices {
				ids[k] = targets[i].ID
			}
			for k, s := range fetchFrom(ctx, device, ids) {
				samples[indices[k]] = s
			}
		})
	}
	all.Wait()
	return samples
}

// fetchFrom reads points of one Device and returns one sample per id, whatever the Device returns.
func fetchFrom(ctx context.Context, device Device, ids []gateway.PointID) []gateway.Sample {
	got, err := device.Read(ctx, ids)
	samples := make([]gateway.Sample, len(ids))
	for i, id := range ids {
		switch {
		case err != nil:
			samples[i] = gateway.Sample{Point: id, Err: err}
		case i < len(got) && got[i].Point == id:
			samples[i] = got[i]
		default:
			samples[i] = gateway.Sample{Point: id, Err: fmt.Errorf("bridge: the adapter gave no reading of %s", id)}
		}
	}
	return samples
}
