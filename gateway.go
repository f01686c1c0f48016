// Package gateway holds the nouns of the product: what a point is, what a reading of it is, what is
// sent to the cloud and what comes back. It does nothing itself: no I/O, no goroutine, no import of
// another package of this module. Every other package speaks in these words.
//
// The way up: an Adapter reads devices and yields Samples; the bridge turns those that are worth
// reporting into Telemetry; the buffer makes Telemetry durable; upstream delivers it to the IoT Hub.
// The way down: upstream receives a Command; the bridge checks it and writes points through the
// Adapter; the Reply says what really happened.
package gateway

import (
	"context"
	"strings"
	"time"
)

// IdentityID names one IoT Hub identity: "device" or "device/module". Neither part contains '/'.
type IdentityID string

// Device is the device id, the part in front of the slash.
func (id IdentityID) Device() string {
	device, _, _ := strings.Cut(string(id), "/")
	return device
}

// Module is the module id, or "" for a device identity.
func (id IdentityID) Module() string {
	_, module, _ := strings.Cut(string(id), "/")
	return module
}

// PointID names one point of the plant: "device/point", both as they are spelled in the mapping.
// It joins the southbound half of a mapping entry (how to fetch) to the northbound half (Point).
type PointID string

// Sample is one reading of one point. A reading that failed is a Sample too: Err says why and Value
// is absent. Err wraps one of the sentinels of errors.go where one applies.
type Sample struct {
	Point PointID
	Value Value
	// Time is when the value arrived at the gateway, or when the device says it was measured.
	Time time.Time
	Err  error
}

// Adapter is one link or one listener of the field side.
type Adapter interface {
	// Run serves the link until ctx ends and hands every reading, good or bad, to accept. It calls
	// accept from one goroutine at a time. Where a device waits for an answer, accept returning nil
	// is what permits it: the reading is durable then. Where accept returns a *FullError, the readings
	// of its Points were refused for good and all others of the call are durable. An unreachable device is not an error, it is
	// a stream of Samples with Err set; Run returns an error only if the link can never work.
	Run(ctx context.Context, accept func(context.Context, []Sample) error) error
	// Read fetches points from their devices now and returns one Sample a point, in the order asked.
	// Its error is about the call (ErrUnknownPoint, ctx); a point that fails has Sample.Err.
	Read(ctx context.Context, points []PointID) ([]Sample, error)
	// Write sets one point and returns nil once the device has answered that it did, and the reading that by
	// asks for has the value. The error wraps ErrUnknownPoint, ErrReadOnly, ErrRange, ErrRefused, ErrTooOften,
	// ErrNoAnswer or ErrUncertain.
	Write(ctx context.Context, point PointID, v Value, by Confirm) error
}

// Point is the northbound half of a mapping entry: what a value means, whose it is, when it is
// reported and who may write it. Where it is fetched from stands in the adapter's own point type.
type Point struct {
	ID PointID
	// Identity reports the point; "" for a device that is local (read, never reported).
	Identity IdentityID
	// Field is the key of the value in the JSON body; unique within Identity.
	Field string
	// Unit is the engineering unit as the mapping spells it (SenML, UCUM), "" if none.
	Unit    string
	Hidden  bool // read, never reported
	Publish Publish
	Range   *Range
	// Wrap is the count, in engineering units, at which a counter starts again at 0; 0 if it never does.
	Wrap  float64
	Write *WriteRule // nil: the cloud may not write it
}

// PublishOn says which readings are worth a message.
type PublishOn uint8

const (
	// OnChange reports a reading that differs from the last reported one by more than the deadband.
	OnChange PublishOn = iota
	// OnPoll reports every reading.
	OnPoll
)

// Publish says when a point is reported.
type Publish struct {
	On PublishOn
	// AtLeastEvery repeats an unchanged value after this long; 0 never.
	AtLeastEvery time.Duration
	// AtMostEvery holds changes back until this long after the last report; 0 never. A change of
	// quality is reported at once.
	AtMostEvery time.Duration
	// Deadband is compared with the last reported value, never with the last read one (MB-57).
	Deadband Deadband
}

// Deadband is how far a number must move to be reported. At most one field is set; the zero value
// reports every difference.
type Deadband struct {
	Absolute float64 // engineering units, > 0
	Percent  float64 // of the last reported value, > 0
}

// RangeMode says what happens to a reading outside its Range.
type RangeMode uint8

const (
	// RangeMark reports the value with the quality "out of range".
	RangeMark RangeMode = iota
	// RangeClamp reports the nearest bound.
	RangeClamp
	// RangeDrop reports nothing.
	RangeDrop
)

// Range is what a good reading lies in, in engineering units, both bounds included.
type Range struct {
	Min, Max float64
	Mode     RangeMode
}

// WriteRule permits writing a point and says what values are allowed. At least one of the limits or
// Words is set for a number; a Bool needs neither.
type WriteRule struct {
	Min, Max *float64 // engineering units, both included; nil: no bound
	Words    []string // the enum's words, in the order of the mapping; nil: a number
	// Confirm says when a write counts as done, unless the method or desired property says otherwise.
	Confirm Confirm
}

// Confirm says when a write counts as done, beside the device's answer to it (MB-73).
type Confirm struct {
	// By is the point whose reading must become the value that was written: the point itself, which must have
	// it at the third look at the latest, or another of its device, which has as long as the caller waits. "" is
	// none: the device's answer suffices.
	By PointID
	// Tolerance is how far the reading may be off.
	Tolerance Deadband
}

// Identity is one IoT Hub identity of the plant and what every message of it carries.
type Identity struct {
	ID IdentityID
	// Properties are application properties added to every message.
	Properties []Property
}

// Property is one application property of a message. Both parts are printable ASCII (D2C-14).
type Property struct{ Name, Value string }

// Method is a direct method that the mapping offers on an identity. Exactly one of Write and Read
// is set.
type Method struct {
	Identity IdentityID
	Name     string
	// Write is the point that is written; its value is the payload's JSON field From, or the
	// constant Value.
	Write PointID
	From  string
	Value *Value
	// Read are the points that are read now and answered.
	Read []PointID
	// Timeout bounds the work at the device; 0 means the bridge's default.
	Timeout time.Duration
	// Queued is for how long the write waits for a device that cannot be reached; 0: now or never.
	Queued time.Duration
	// Require are points that must have these values just before the write; all of them.
	Require []Requirement
	// Confirm says when the write counts as done; nil: as its point says.
	Confirm *Confirm
}

// Requirement is a value that a point must have for a method to write. Numbers are equal whatever their kind.
type Requirement struct {
	Point PointID
	Value Value
}

// MessageRule says which point a cloud-to-device message writes. Of several that fit, the first counts.
type MessageRule struct {
	Identity IdentityID
	// When is the application property that the message must have, its name compared without case
	// (D2C-14); the zero Property fits every message.
	When Property
	// Write is the point that is written; its value is the JSON body's field From, or the constant Value,
	// whatever the body is.
	Write PointID
	From  string
	Value *Value
	// Queued is for how long the write waits for a device that cannot be reached; 0: now or never.
	Queued time.Duration
}

// Desired says which point a desired property of the identity's twin writes.
type Desired struct {
	Identity IdentityID
	// Path names the property, its levels separated by dots: "heating.setpoint".
	Path  string
	Write PointID
	// Place says where Write is and how a value is put there, as far as the mapping knows: a value that has been
	// written to one place has not been written to another.
	Place string
	// Confirm says when the write counts as done; nil: as its point says.
	Confirm *Confirm
	// Always writes it again whenever the twin is read and when the device is back, not only when it was
	// changed.
	Always bool
}

// Telemetry is one message to the hub. It never mixes identities.
type Telemetry struct {
	Identity IdentityID
	// Body is a JSON object, ContentType application/json, UTF-8.
	Body []byte
	// Properties are application properties; system properties are formed upstream.
	Properties []Property
	// Created is when the newest reading in the body was taken.
	Created time.Time
}

// Command is a direct method call as it came from the hub.
type Command struct {
	Identity IdentityID
	Name     string
	Payload  []byte // JSON, or empty
}

// Reply answers a Command: an HTTP-like status and a JSON body.
type Reply struct {
	Status int
	Body   []byte
}

// CloudMessage is a cloud-to-device message as it came from the hub.
type CloudMessage struct {
	Identity IdentityID
	// ID is the message id that its sender gave it; "" if none.
	ID string
	// Properties are the application's, in the order of the hub; one without a value has "".
	Properties []Property
	Body       []byte
	// Expires is when it must not be carried out any more; zero: never.
	Expires time.Time
}

// Ack is what became of a desired property, as Plug and Play has it: value, ac and ad.
type Ack struct {
	// Value is what the point has as far as is known; Absent if it is not known.
	Value Value
	// Status is 200 when the point has the desired value, 202 when it is tried again, else why not.
	Status int
	Text   string // for people
}

// State keeps small facts across restarts: executed message ids, applied desired versions, learned
// holes. A key is "part/of/whom"; a value is at most 64 KiB. Implemented by buffer on a file of its
// own; safe for use by any goroutine.
type State interface {
	// Get returns the value of key; false if there is none.
	Get(key string) (value []byte, ok bool)
	// Put stores value durably before it returns nil.
	Put(ctx context.Context, key string, value []byte) error
	// Delete forgets key durably before it returns nil; a key that is not there is no error.
	Delete(ctx context.Context, key string) error
}
