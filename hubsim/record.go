package hubsim

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"strconv"
	"time"
)

// record is a stored message as it came: the bag stays encoded, so that storing costs one copy.
type record struct {
	sequence   uint64
	at         int64 // enqueued, Unix nanoseconds
	generation uint64
	marks      marks
	identity   string // "device" or "device/module"
	bag, body  []byte
}

// marks are the facts about a message that its bag does not tell.
type marks uint8

const (
	markRetain marks = 1 << iota
	markDup
	markWill
	markPolicy // connected with the token of a shared access policy
	markX509   // connected with a certificate
	markState  // a connection state event (MON-6)
)

// recordHead is a record's fixed part: CRC-32C of the rest, length of the rest, then sequence, time,
// generation, marks, length of the identity, length of the bag.
const recordHead = 4 + 4 + 8 + 8 + 8 + 1 + 2 + 2

var errDamaged = errors.New("damaged record")

func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) } // the package caches it

func (r *record) size() int { return recordHead + len(r.identity) + len(r.bag) + len(r.body) }

// append writes the record's stored form behind b.
func (r *record) append(b []byte) []byte {
	start := len(b)
	b = append(b, 0, 0, 0, 0)
	b = binary.BigEndian.AppendUint32(b, uint32(r.size()-8))
	b = binary.BigEndian.AppendUint64(b, r.sequence)
	b = binary.BigEndian.AppendUint64(b, uint64(r.at))
	b = binary.BigEndian.AppendUint64(b, r.generation)
	b = append(b, byte(r.marks))
	b = binary.BigEndian.AppendUint16(b, uint16(len(r.identity)))
	b = binary.BigEndian.AppendUint16(b, uint16(len(r.bag)))
	b = append(b, r.identity...)
	b = append(b, r.bag...)
	b = append(b, r.body...)
	binary.BigEndian.PutUint32(b[start:], crc32.Checksum(b[start+4:], castagnoli()))
	return b
}

// parseRecord reads the record at the beginning of b and returns its length. The record points into b.
func parseRecord(b []byte) (r record, n int, err error) {
	if len(b) < recordHead {
		return r, 0, errDamaged
	}
	length := int(binary.BigEndian.Uint32(b[4:]))
	if length < recordHead-8 || length > 2*maxPacket || len(b)-8 < length {
		return r, 0, errDamaged
	}
	if n = 8 + length; crc32.Checksum(b[4:n], castagnoli()) != binary.BigEndian.Uint32(b) {
		return r, 0, errDamaged
	}
	r.sequence = binary.BigEndian.Uint64(b[8:])
	r.at = int64(binary.BigEndian.Uint64(b[16:]))
	r.generation = binary.BigEndian.Uint64(b[24:])
	r.marks = marks(b[32])
	idLen, bagLen := int(binary.BigEndian.Uint16(b[33:])), int(binary.BigEndian.Uint16(b[35:]))
	rest := b[recordHead:n]
	if idLen+bagLen > len(rest) {
		return r, 0, errDamaged
	}
	r.identity, r.bag, r.body = string(rest[:idLen]), rest[idLen:idLen+bagLen], rest[idLen+bagLen:]
	return r, n, nil
}

// message is the record as a consumer of the hub sees it. retainName is the property of D2C-22.
func (r *record) message(retainName string) Message {
	m := Message{
		Sequence: r.sequence, Enqueued: time.Unix(0, r.at).UTC(),
		Properties: map[string]string{}, System: map[string]string{},
		Body: append([]byte(nil), r.body...),
	}
	m.Device, m.Module = splitIdentity(r.identity)
	var b bag
	_ = b.parse(r.bag) // it was checked before the message was stored
	for _, p := range b.pairs {
		name := systemName(string(p.name))
		if r.marks&markState != 0 && !isSystem(p.name) {
			name = "" // its schema is an application property
		}
		if name != "" {
			m.System[name] = string(p.value)
		} else {
			m.Properties[string(p.name)] = string(p.value)
		}
	}
	if r.marks&markRetain != 0 {
		m.Properties[retainName] = "true"
	}
	if r.marks&markDup != 0 {
		m.Properties["mqtt-dup"] = "true" // D2C-23
	}
	if r.marks&markWill != 0 {
		m.Properties["iothub-MessageType"] = "Will" // WILL-5
	}
	r.annotate(&m)
	return m
}

// authMethod says how the sender of a message proved who it is.
func authMethod(m marks, module string) string {
	scope := "device"
	switch {
	case m&markPolicy != 0:
		scope = "hub"
	case module != "":
		scope = "module"
	}
	kind := "sas"
	if m&markX509 != 0 {
		kind = "x509"
	}
	return `{"scope":"` + scope + `","type":"` + kind + `","issuer":"iothub","acceptingIpFilterRule":null}`
}

// annotate adds what the hub says about a message; a client's own properties of these names do not
// survive (D2C-19).
func (r *record) annotate(m *Message) {
	enqueued := m.Enqueued.Format(time.RFC3339Nano)
	m.System["iothub-connection-device-id"] = m.Device
	if m.Module != "" {
		m.System["iothub-connection-module-id"] = m.Module
	}
	m.System["iothub-connection-auth-generation-id"] = strconv.FormatUint(r.generation, 10)
	m.System["iothub-connection-auth-method"] = authMethod(r.marks, m.Module)
	m.System["iothub-enqueuedtime"] = enqueued
	m.System["iothub-message-source"] = "Telemetry"
	if r.marks&markState != 0 {
		m.System["iothub-message-source"] = "deviceConnectionStateEvents"
	}
	m.System["x-opt-sequence-number"] = strconv.FormatUint(r.sequence, 10)
	m.System["x-opt-enqueued-time"] = enqueued
}
