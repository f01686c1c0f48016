package coap

import (
	"math"
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/plgd-dev/go-coap/v3/message"
	"github.com/plgd-dev/go-coap/v3/message/codes"
)

// How long a device is asked to wait, in seconds.
const (
	waitIfBusy     = 5
	waitIfClosing  = 30
	waitIfFaulty   = 60
	maxWaitIfStuck = 200 // before it is spread, so 5 min at most
)

// receive takes one message of an endpoint in, in the steps of COAP-110. It never waits: what needs
// the disk goes to deliver.
func (a *Adapter) receive(from endpoint, datagram []byte) {
	now := time.Now()
	p, err := parse(datagram)
	switch {
	case err != nil:
		a.ignore(from, rejection(datagram))
	case isRequest(p.code) && (p.kind == message.Confirmable || p.kind == message.NonConfirmable):
		a.request(from, newRequest(p, datagram, a.seed), now)
	case p.kind == message.Confirmable:
		// A ping, an answer that nothing here asked for, or a code from the future (COAP-6).
		a.ignore(from, header(message.Reset, p.mid))
	case p.code == codes.Empty && p.kind != message.NonConfirmable:
		a.mu.Lock()
		a.exchanges.settled(from, p.mid)
		a.mu.Unlock()
	default:
		a.ignore(from, nil)
	}
}

// ignore counts a message that asks for nothing, and resets it if it was confirmable.
func (a *Adapter) ignore(from endpoint, reset []byte) {
	a.mu.Lock()
	a.stats.Ignored++
	a.mu.Unlock()
	if reset != nil {
		from.send(reset)
	}
}

// request answers a request or brings it on its way.
func (a *Adapter) request(from endpoint, r request, now time.Time) {
	a.mu.Lock()
	reply, repeated := a.exchanges.repeated(from, &r, now)
	var x *exchange
	var body []byte
	if repeated {
		a.stats.Repeated++
	} else if x, body, reply = a.admit(from, r, now); x != nil {
		a.exchanges.begin(x)
		a.waiting++
	}
	a.mu.Unlock()
	if x != nil {
		a.take(from, x, body)
	} else if reply != nil {
		from.send(reply)
	}
}

// admit returns an exchange with its body for a request that is to be carried out, or else what
// it is answered with, if anything.
func (a *Adapter) admit(from endpoint, r request, now time.Time) (x *exchange, body, reply []byte) {
	d, known, code := a.roster.find(from, r.path)
	if known == nil {
		a.stats.Refused++
		if !a.strangers.AllowN(now, 1) {
			return nil, nil, nil
		}
		return nil, nil, a.reply(r, answer{code: code})
	}
	if refusal := a.judge(d, r, code); refusal.code != codes.Empty {
		return nil, nil, a.refuse(known, r, refusal, now)
	}
	if limited := a.afford(d, r, now); limited.code != codes.Empty {
		return nil, nil, a.reply(r, limited)
	}
	body = r.payload
	if r.block != nil {
		if body, code = a.assembly.add(from.id(), r, now); code != complete {
			return nil, nil, a.refuse(known, r, a.blockAnswer(r, code), now)
		}
		a.assembly.drop(from.id())
	}
	return &exchange{request: r, from: from, device: d, received: now}, body, nil
}

// judge says why a request of a known device is refused whatever its body holds; Empty if it is
// not. Missing is why the roster has no device for it.
func (a *Adapter) judge(d *device, r request, missing codes.Code) answer {
	switch {
	case r.refusal != codes.Empty:
		return answer{code: r.refusal, text: "option " + strconv.Itoa(int(r.refused))}
	case missing != codes.Empty:
		return answer{code: missing, text: "not this device's path"}
	case r.code != codes.POST:
		return answer{code: codes.MethodNotAllowed, text: "POST only"}
	case !d.catalog.takes(d.format(r)):
		return answer{code: codes.UnsupportedMediaType, text: r.formatText()}
	case r.block == nil && len(r.payload) > a.cfg.Limits.Body:
		return answer{code: codes.RequestEntityTooLarge, size: a.cfg.Limits.Body}
	}
	return answer{}
}

// formatText names the Content-Format that is not taken.
func (r request) formatText() string {
	if r.format == none {
		return "no content-format"
	}
	return "content-format " + strconv.Itoa(r.format)
}

// format is the format of a request's body.
func (d *device) format(r request) Format {
	if r.format == none {
		return d.Assume
	}
	return formatOf(r.format)
}

// afford says why there is no room for a report now; Empty if there is. Of a body in blocks the
// first costs and the last must find a place.
func (a *Adapter) afford(d *device, r request, now time.Time) answer {
	first := r.block == nil || r.block.num == 0
	last := r.block == nil || !r.block.more
	switch {
	case a.closing:
		return answer{code: codes.ServiceUnavailable, maxAge: waitIfClosing}
	case first && !d.budget.AllowN(now, 1):
		a.stats.Limited++
		return answer{code: codes.TooManyRequests, maxAge: uint32(math.Ceil(max(1, 1/a.cfg.Limits.Rate)))}
	case last && a.waiting >= maxReports:
		a.stats.Busy++
		return answer{code: codes.ServiceUnavailable, maxAge: spread(waitIfBusy)}
	}
	return answer{}
}

// blockAnswer answers a block that does not complete its body.
func (a *Adapter) blockAnswer(r request, code codes.Code) answer {
	ans := answer{code: code, block: r.block}
	if code == codes.RequestEntityTooLarge {
		ans.size = a.cfg.Limits.Body
	}
	return ans
}

// refuse answers a request of a known device without carrying it out. Too many equal refusals make
// it 4.29: there are devices that take any refusal for "again, at once" (COAP-56).
func (a *Adapter) refuse(d *device, r request, ans answer, now time.Time) []byte {
	return a.reply(r, a.slowed(d, ans, now))
}

// slowed counts a refusal and returns what the device is told.
func (a *Adapter) slowed(d *device, ans answer, now time.Time) answer {
	if ans.code < codes.BadRequest { // 2.31
		return ans
	}
	a.stats.Refused++
	if now.Sub(d.logged) > faultWindow {
		d.logged = now
		a.log.Warn().Str("device", d.Name).Str("code", dotted(ans.code)).Str("reason", ans.text).Msg("report refused")
	}
	if d.faults.add(ans.code, now) {
		return answer{code: codes.TooManyRequests, maxAge: waitIfFaulty}
	}
	return ans
}

// reply writes an answer to a request that was not admitted; nil if it wants none.
func (a *Adapter) reply(r request, ans answer) []byte {
	switch {
	case r.confirmable && r.wants(ans.code):
		return ans.encode(message.Acknowledgement, r.mid, r)
	case r.confirmable:
		return header(message.Acknowledgement, r.mid)
	case r.wants(ans.code):
		return ans.encode(message.NonConfirmable, a.exchanges.mid(), r)
	}
	return nil
}

// take reads the body of an admitted request and hands the report to deliver.
func (a *Adapter) take(from endpoint, x *exchange, body []byte) {
	now := x.received
	samples, unmapped, err := x.device.catalog.decode(x.device.format(x.request), body, now)
	a.mu.Lock()
	a.stats.Unmapped += uint64(unmapped)
	refusal := answer{}
	switch {
	case err != nil:
		refusal = a.slowed(x.device, answer{code: codes.BadRequest, text: err.Error()}, now)
	case len(samples) == 0:
		refusal = a.slowed(x.device, answer{code: unprocessable, text: "no value that is mapped"}, now)
	case a.closing:
		refusal = answer{code: codes.ServiceUnavailable, maxAge: waitIfClosing}
	case a.samples+len(samples) > maxSamples:
		a.stats.Busy++
		refusal = answer{code: codes.ServiceUnavailable, maxAge: spread(waitIfBusy)}
	default:
		a.heard(x.device, now)
		a.samples += len(samples)
		a.reports <- report{from: from, exchange: x, device: x.device, samples: samples} // waiting says there is room
	}
	var out []byte
	if refusal.code != codes.Empty {
		a.waiting--
		out = a.exchanges.finish(x, refusal, now)
	}
	a.mu.Unlock()
	if out != nil {
		from.send(out)
	}
}

// spread adds up to a half, so that devices refused together do not come back together.
func spread(seconds uint32) uint32 { return seconds + uint32(rand.IntN(int(seconds/2)+1)) }
