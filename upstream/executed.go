package upstream

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	gateway "iothub-gateway"
)

const (
	// keptMessages is how many executed messages are remembered. The hub repeats only what was not
	// acknowledged, and holds 50 messages for a device (C2D-28).
	keptMessages  = 128
	executedForm  = 1 // first byte of a note
	executedEntry = 16 + 2
	begun         = 0 // the status of a message whose execution has begun
)

// messageKey stands for a cloud-to-device message: its id, or, without one, all of it.
type messageKey [16]byte

// keyOf is the key of a message that came on topic.
func keyOf(m *gateway.CloudMessage, topic string) messageKey {
	text := "id\x00" + m.ID
	if m.ID == "" {
		text = fmt.Sprintf("all\x00%d\x00%s%s", len(topic), topic, m.Body)
	}
	sum := sha256.Sum256([]byte(text))
	return messageKey(sum[:16])
}

// execution is a message that was executed, or whose execution has begun.
type execution struct {
	key    messageKey
	status uint16 // of the reply, or begun
}

// executed are the newest executions of an identity, oldest first.
type executed []execution

// parseExecuted reads a note of executed.append; what it cannot read it leaves out.
func parseExecuted(note []byte) (all executed) {
	if len(note) == 0 || note[0] != executedForm {
		return nil
	}
	for entry := range slices.Chunk(note[1:], executedEntry) {
		if len(entry) == executedEntry {
			all = append(all, execution{messageKey(entry), binary.BigEndian.Uint16(entry[16:])})
		}
	}
	return all
}

// note is the text that parseExecuted reads.
func (all executed) note() []byte {
	b := append(make([]byte, 0, 1+len(all)*executedEntry), executedForm)
	for _, e := range all {
		b = binary.BigEndian.AppendUint16(append(b, e.key[:]...), e.status)
	}
	return b
}

// with returns all with the status of key, which becomes the newest.
func (all executed) with(key messageKey, status int) executed {
	next := slices.DeleteFunc(slices.Clone(all), func(e execution) bool { return e.key == key })
	next = append(next, execution{key, uint16(status)})
	return next[max(0, len(next)-keptMessages):]
}

// without returns all without key.
func (all executed) without(key messageKey) executed {
	return slices.DeleteFunc(slices.Clone(all), func(e execution) bool { return e.key == key })
}

// find returns the status of key.
func (all executed) find(key messageKey) (status int, ok bool) {
	i := slices.IndexFunc(all, func(e execution) bool { return bytes.Equal(e.key[:], key[:]) })
	if i < 0 {
		return 0, false
	}
	return int(all[i].status), true
}

// verdict is what is done with a message that arrives.
type verdict uint8

const (
	execute     verdict = iota
	done                // executed before: only acknowledge it
	interrupted         // its execution has begun before and nobody knows how it ended
	expired
	late // others before it took too long
)

// arrival is a message that has come.
type arrival struct {
	m        *gateway.CloudMessage
	key      messageKey
	repeats  bool      // the hub says that it sent it before
	deadline time.Time // when it must be over
}

// judge decides about an arrival at its turn, at now.
func (all executed) judge(a arrival, now time.Time) verdict {
	// Without an id two messages may be equal; one that was sent before says so.
	status, known := all.find(a.key)
	known = known && (a.m.ID != "" || a.repeats)
	switch {
	case known && status == begun:
		return interrupted
	case known:
		return done
	case !a.m.Expires.IsZero() && !now.Before(a.m.Expires):
		return expired
	case !now.Before(a.deadline):
		return late
	}
	return execute
}
