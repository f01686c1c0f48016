package bridge

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"

	gateway "iothub-gateway"
)

// desiredKey is what a desired property is looked up by.
type desiredKey struct {
	identity gateway.IdentityID
	path     string
}

// Desired writes the value that a desired property has, raw JSON, and says what became of it. Its status is
// 200 when it is done, as confirm of the property or its point wants it, and 202 when nothing was sent because the device cannot be reached or
// is written too often: the caller tries again while the property is desired. Otherwise nothing happens to
// this value any more: the statuses of Handle, 503 while the gateway stops. A value that was not written is
// never given back: Value is then what the device says it has, if it answers.
func (d *Down) Desired(ctx context.Context, identity gateway.IdentityID, path string, raw []byte) gateway.Ack {
	m := d.desired[desiredKey{identity, path}]
	if m == nil {
		return gateway.Ack{Status: 404, Text: fmt.Sprintf("the mapping gives %s no desired property %q", identity, cut(path))}
	}
	if m.rule == nil {
		return gateway.Ack{Status: 403, Text: "the mapping lets nobody write " + string(m.Write)}
	}
	v, err := gateway.ParseValue(raw)
	if err != nil {
		err = fmt.Errorf("%s is %s; it must be a number, true, false or a text", cut(string(raw)), kindOf(raw))
	} else {
		err = allowed(m.rule, v)
	}
	if err != nil {
		return gateway.Ack{Value: d.present(ctx, m), Status: 400, Text: clip(err.Error())}
	}
	f := d.put(ctx, m, v)
	switch {
	case f == nil:
		return gateway.Ack{Value: v, Status: 200, Text: doneText(m)}
	case f.code == codeNoAnswer || f.code == codeBusy:
		return gateway.Ack{Status: 202, Text: clip(f.text) + "; tried again while it is desired"}
	case f.code == codeStopping:
		return gateway.Ack{Status: f.status, Text: clip(f.text)}
	}
	return gateway.Ack{Value: d.present(ctx, m), Status: f.status, Text: clip(f.text)}
}

// doneText says how a write was confirmed, for people.
func doneText(m *method) string {
	switch by := confirmation(m.Write, m.confirm); by {
	case bySent:
		return "written; the device has answered, and the value was not read back"
	case byReadBack:
		return "written and read back"
	default:
		return "written, and " + by + " has the value"
	}
}

// present is what the point has now; Absent if its device does not say.
func (d *Down) present(ctx context.Context, m *method) gateway.Value {
	ctx, cancel := context.WithTimeout(ctx, m.Timeout)
	defer cancel()
	s := d.fetch(ctx, m.targets)[0]
	if s.Err != nil {
		return gateway.Value{}
	}
	return s.Value
}

// kindOf names what JSON text is that is no scalar.
func kindOf(raw []byte) string {
	switch {
	case !json.Valid(raw):
		return "not JSON"
	case raw[0] == '{':
		return "an object"
	case raw[0] == '[':
		return "a list"
	}
	return string(raw)
}

// put writes v, an allowed value, and returns what went wrong; nil once it is confirmed as m wants it.
func (d *Down) put(ctx context.Context, m *method, v gateway.Value) *failure {
	device := d.device(m.Write)
	if device == nil {
		f := writeFailure(ctx, m.Write, noAdapter(m.Write))
		return &f
	}
	work, cancel := context.WithTimeout(ctx, cmp.Or(m.Timeout, defaultTimeout))
	defer cancel()
	if err := device.Write(work, m.Write, v, m.confirm); err != nil {
		f := writeFailure(ctx, m.Write, err)
		return &f
	}
	return nil
}
