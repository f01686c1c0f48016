package hubsim

import (
	"encoding/json"
	"strconv"
)

// restore loads kept sessions, cloud-to-device messages and feedback from the state.
func (h *Hub) restore() error {
	h.feedback.state = h.state
	newest := uint64(0)
	err := h.state.each(sessionKind, func(name string, text []byte) error {
		id := h.registry.find(name)
		if id == nil {
			return nil
		}
		id.kept = true
		if err := json.Unmarshal(text, &id.filters); err != nil {
			return err
		}
		for _, s := range id.filters {
			newest = max(newest, s.Since)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if err := h.restoreLetters(&newest); err != nil {
		return err
	}
	h.letters.Store(newest)
	return h.state.each(feedbackKind, func(_ string, text []byte) error {
		f := &Feedback{}
		h.feedback.all = append(h.feedback.all, f)
		return json.Unmarshal(text, f)
	})
}

// restoreLetters loads the messages that wait and those that were dropped; newest becomes the largest
// sequence.
func (h *Hub) restoreLetters(newest *uint64) error {
	mailboxOf := func(key string) (b *mailbox, err error) {
		device, number := splitIdentity(key)
		sequence, err := strconv.ParseUint(number, 10, 64)
		*newest = max(*newest, sequence)
		id := h.registry.find(device)
		if id == nil || err != nil {
			return &mailbox{}, err
		}
		if id.mailbox == nil {
			id.mailbox = &mailbox{}
		}
		return id.mailbox, nil
	}
	err := h.state.each(letterKind, func(key string, text []byte) error {
		b, err := mailboxOf(key)
		if err != nil {
			return err
		}
		l := &letter{}
		b.pending = append(b.pending, l)
		return json.Unmarshal(text, l)
	})
	if err != nil {
		return err
	}
	err = h.state.each(deadKind, func(key string, text []byte) error {
		b, err := mailboxOf(key)
		if err != nil {
			return err
		}
		b.dead = append(b.dead, dropped{key: key})
		return json.Unmarshal(text, &b.dead[len(b.dead)-1].DeadLetter)
	})
	for _, id := range h.registry.list() {
		if id.mailbox != nil {
			id.setAlarm(h)
		}
	}
	return err
}
