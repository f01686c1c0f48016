package hubsim

import (
	"encoding/json"
	"slices"
	"strings"
	"time"
)

// query is a question about twins (SVC-20).
type query struct {
	modules bool         // about devices.modules
	fields  []projection // nil is *
	where   condition    // nil is all of them
}

// projection is a field of the answer.
type projection struct {
	path path
	name string
}

// path is a field: tags.site is two of its names.
type path []string

// truth is what becomes of a condition. What compares with something that is not there, or with another
// type, is neither true nor false; nor is its negation.
type truth int8

const (
	unknown truth = iota
	no
	yes
)

func truthOf(is bool) truth {
	if is {
		return yes
	}
	return no
}

// condition is what stands behind WHERE, or a part of it.
type condition interface{ holds(row *queryRow) truth }

type (
	anyOf      []condition
	allOf      []condition
	negation   struct{ condition }
	comparison struct {
		left  operand
		op    string
		right operand
	}
	membership struct {
		one operand
		in  []operand
	}
	defined path
	flag    struct{ operand }
)

func (all anyOf) holds(row *queryRow) truth {
	result := no
	for _, c := range all {
		switch c.holds(row) {
		case yes:
			return yes
		case unknown:
			result = unknown
		}
	}
	return result
}

func (all allOf) holds(row *queryRow) truth {
	result := yes
	for _, c := range all {
		switch c.holds(row) {
		case no:
			return no
		case unknown:
			result = unknown
		}
	}
	return result
}

func (n negation) holds(row *queryRow) truth {
	switch n.condition.holds(row) {
	case yes:
		return no
	case no:
		return yes
	}
	return unknown
}

func (c comparison) holds(row *queryRow) truth {
	order, ok := compare(c.left.of(row), c.right.of(row))
	if !ok {
		return unknown
	}
	switch c.op {
	case "=":
		return truthOf(order == 0)
	case "!=", "<>":
		return truthOf(order != 0)
	case "<":
		return truthOf(order < 0)
	case "<=":
		return truthOf(order <= 0)
	case ">":
		return truthOf(order > 0)
	}
	return truthOf(order >= 0)
}

func (m membership) holds(row *queryRow) truth {
	one := m.one.of(row)
	if one == nothing {
		return unknown
	}
	return truthOf(slices.ContainsFunc(m.in, func(other operand) bool {
		order, ok := compare(one, other.value)
		return ok && order == 0
	}))
}

func (d defined) holds(row *queryRow) truth { return truthOf(row.field(path(d)) != nothing) }

func (f flag) holds(row *queryRow) truth {
	if is, ok := f.of(row).(bool); ok {
		return truthOf(is)
	}
	return unknown
}

// operand is a field, or a value if field is nil.
type operand struct {
	field path
	value any
}

func (o operand) of(row *queryRow) any {
	if o.field == nil {
		return o.value
	}
	return row.field(o.field)
}

// nothing is the value of a field that is not there.
const nothing = absence(0)

type absence int

// compare is the order of two values; ok is false if they have none.
func compare(a, b any) (order int, ok bool) {
	if at, isTime := a.(time.Time); isTime {
		bt, ok := asTime(b)
		return at.Compare(bt), ok
	}
	if bt, isTime := b.(time.Time); isTime {
		at, ok := asTime(a)
		return at.Compare(bt), ok
	}
	switch a := a.(type) {
	case string:
		b, ok := b.(string)
		return strings.Compare(a, b), ok
	case float64:
		b, ok := b.(float64)
		return threeWay(a < b, a > b), ok
	case bool:
		b, ok := b.(bool)
		return threeWay(!a && b, a && !b), ok
	case nil:
		return 0, b == nil
	}
	return 0, false
}

func threeWay(less, more bool) int {
	switch {
	case less:
		return -1
	case more:
		return 1
	}
	return 0
}

// asTime is a time that was written as one.
func asTime(value any) (time.Time, bool) {
	if t, ok := value.(time.Time); ok {
		return t, true
	}
	text, _ := value.(string)
	for _, form := range []string{time.RFC3339Nano, "2006-01-02T15:04:05", time.DateOnly} {
		if t, err := time.Parse(form, text); err == nil {
			return t, true
		}
	}
	return time.Time{}, false
}

// queryRow is a twin as it was at one moment.
type queryRow struct {
	id   *identity
	reg  registration
	twin twinState
}

// row takes a twin as it is now.
func (h *Hub) row(id *identity) *queryRow {
	t := id.openTwin()
	defer t.mu.Unlock()
	return h.rowOf(id, t)
}

// rowOf is row for a caller who holds the twin's mu.
func (h *Hub) rowOf(id *identity, t *twin) *queryRow {
	return &queryRow{id: id, reg: h.registry.registered(id), twin: t.twinState}
}

// queryFields are the fields that twins have, by their first name.
func queryFields() []string {
	return []string{
		"deviceId", "moduleId", "etag", "deviceEtag", "version", "status", "statusReason", "statusUpdateTime",
		"connectionState", "lastActivityTime", "cloudToDeviceMessageCount", "authenticationType", "capabilities",
		"deviceScope", "modelId", "tags", "properties",
	}
}

// knownField tells whether twins may have a field.
func knownField(f path) bool {
	switch f[0] {
	case "tags":
		return true
	case "properties":
		return len(f) == 1 || f[1] == "desired" || f[1] == "reported"
	case "capabilities":
		return len(f) == 1 || len(f) == 2 && f[1] == "iotEdge"
	}
	return len(f) == 1 && slices.Contains(queryFields(), f[0])
}

// field is the value of a field: a string, a number as float64, a bool, a time, nil, or something that has no
// order.
func (row *queryRow) field(f path) any {
	switch f[0] {
	case "tags":
		return inside(row.twin.Tags, f[1:])
	case "properties":
		return row.property(f[1:])
	case "capabilities":
		if len(f) == 2 {
			return row.reg.Edge
		}
		return capabilities{row.reg.Edge}
	}
	shown := row.show()
	switch f[0] {
	case "deviceId":
		return shown.DeviceID
	case "moduleId":
		return orNothing(shown.ModuleID)
	case "etag":
		return shown.ETag
	case "deviceEtag":
		return shown.DeviceETag
	case "version":
		return float64(shown.Version)
	case "status":
		return orNothing(shown.Status)
	case "statusReason":
		return orNothing(orEmpty(shown.StatusReason))
	case "statusUpdateTime":
		return shown.StatusUpdateTime
	case "connectionState":
		return shown.ConnectionState
	case "lastActivityTime":
		return shown.LastActivityTime
	case "cloudToDeviceMessageCount":
		return float64(shown.CloudToDeviceMessageCount)
	case "authenticationType":
		return shown.AuthenticationType
	case "deviceScope":
		return orNothing(shown.Scope)
	}
	return orNothing(shown.ModelID)
}

func orNothing(text string) any {
	if text == "" {
		return nothing
	}
	return text
}

// property is a field behind "properties.".
func (row *queryRow) property(f path) any {
	if len(f) == 0 {
		both, err := row.twin.show()
		if err != nil {
			return nothing
		}
		return both
	}
	part := row.twin.Desired
	if f[0] == "reported" {
		part = row.twin.Reported
	}
	switch {
	case len(f) == 1:
		text, err := part.withMetadata()
		if err != nil {
			return nothing
		}
		return text
	case f[1] == "$version" && len(f) == 2:
		return float64(part.Version)
	case f[1] == "$metadata":
		return part.Stamps.find(f[2:])
	}
	return inside(part.Values, f[1:])
}

// find is what stands in $metadata at the end of a path.
func (s *stamps) find(f path) any {
	for i, name := range f {
		switch {
		case s == nil:
			return nothing
		case i == len(f)-1 && name == "$lastUpdated":
			return s.At
		case i == len(f)-1 && name == "$lastUpdatedVersion" && s.Version > 0:
			return float64(s.Version)
		}
		s = s.In[name]
	}
	if s == nil {
		return nothing
	}
	text, err := s.append(nil)
	if err != nil {
		return nothing
	}
	return json.RawMessage(text)
}

// inside is what stands in o at the end of a path.
func inside(o object, f path) any {
	var value any = o
	if o == nil {
		value = object{}
	}
	for _, name := range f {
		in, _ := value.(object)
		inner, ok := in[name]
		if !ok {
			return nothing
		}
		value = inner
	}
	if number, ok := value.(json.Number); ok {
		if n, err := number.Float64(); err == nil {
			return n
		}
	}
	return value
}

// project is the part of a row that the query asks for; a field that is not there is left out.
func (q query) project(row *queryRow) map[string]any {
	item := map[string]any{}
	for _, p := range q.fields {
		if value := row.field(p.path); value != nothing {
			item[p.name] = value
		}
	}
	return item
}
