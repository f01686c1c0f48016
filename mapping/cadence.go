package mapping

import (
	"fmt"
	"strings"
	"time"

	gateway "iothub-gateway"
	"iothub-gateway/adapters/modbus"
)

// level says which part of the file a setting comes from; a higher one wins (MAP-10).
type level uint8

const (
	builtIn level = iota
	byDefaults
	byDevice
	byPoint
)

// setting is a value with where it was written.
type setting[T any] struct {
	value T
	level level
	node  node // the zero node if built in
}

// over is the setting that wins, the one above unless it is not given.
func (s setting[T]) over(below setting[T]) setting[T] {
	if s.level == builtIn {
		return below
	}
	return s
}

// cadence is how often something is read and reported, and when it counts as offline.
type cadence struct {
	poll            setting[time.Duration]
	on              setting[gateway.PublishOn]
	atLeast, atMost setting[time.Duration]
	after           setting[int]
	retry           setting[[2]time.Duration]
}

// The times that a mapping may ask for.
const (
	shortest    = time.Millisecond
	longest     = 366 * 24 * time.Hour
	longestWait = time.Minute // for an answer of a device
)

// builtInCadence is what holds where the file says nothing.
func builtInCadence() cadence {
	return cadence{
		poll:    setting[time.Duration]{value: time.Second},
		atLeast: setting[time.Duration]{value: 15 * time.Minute},
		after:   setting[int]{value: 3},
		retry:   setting[[2]time.Duration]{value: [2]time.Duration{5 * time.Second, 2 * time.Minute}},
	}
}

func (c cadence) over(below cadence) cadence {
	return cadence{
		poll:    c.poll.over(below.poll),
		on:      c.on.over(below.on),
		atLeast: c.atLeast.over(below.atLeast),
		atMost:  c.atMost.over(below.atMost),
		after:   c.after.over(below.after),
		retry:   c.retry.over(below.retry),
	}
}

func (c cadence) offline() modbus.Offline {
	return modbus.Offline{After: c.after.value, RetryMin: c.retry.value[0], RetryMax: c.retry.value[1]}
}

func (d *draft) readDefaults(n node) {
	d.defaults = n.section(inDefaults).cadence(byDefaults)
}

// cadence reads the keys poll, publish and offline as far as they are given.
func (s section) cadence(from level) cadence {
	var c cadence
	if n, ok := s.get("poll"); ok {
		c.poll = n.period(from)
	}
	if n, ok := s.get("publish"); ok {
		c.readPublish(n.section(inPublish), from)
	}
	if n, ok := s.get("offline"); ok {
		c.readOffline(n.section(inOffline), from)
	}
	return c
}

// period is a poll period; a point may also say startup, which is 0: once after each start.
func (n node) period(from level) setting[time.Duration] {
	text, ok := n.text()
	if !ok {
		return setting[time.Duration]{}
	}
	if text == "startup" && from == byPoint {
		return setting[time.Duration]{0, from, n}
	}
	if text == "startup" {
		n.complain("E009", "poll: startup is for single points; write it at the point")
		return setting[time.Duration]{}
	}
	return n.time(from, shortest)
}

// time is a duration setting.
func (n node) time(from level, atLeast time.Duration) setting[time.Duration] {
	if d, ok := n.duration(atLeast, longest); ok {
		return setting[time.Duration]{d, from, n}
	}
	return setting[time.Duration]{}
}

func (c *cadence) readPublish(s section, from level) {
	if n, ok := s.get("on"); ok {
		switch word, _ := n.word("change", "poll", "report"); word {
		case "change":
			c.on = setting[gateway.PublishOn]{gateway.OnChange, from, n}
		case "poll", "report":
			c.on = setting[gateway.PublishOn]{gateway.OnPoll, from, n}
		}
	}
	if n, ok := s.get("at_least_every"); ok {
		c.atLeast = n.time(from, 0)
	}
	if n, ok := s.get("at_most_every"); ok {
		c.atMost = n.time(from, 0)
	}
}

func (c *cadence) readOffline(s section, from level) {
	const mostFailures = 1000
	if n, ok := s.get("after"); ok {
		if after, ok := n.whole(1, mostFailures, "E009"); ok {
			c.after = setting[int]{after, from, n}
		}
	}
	n, ok := s.get("retry")
	if !ok {
		return
	}
	text, ok := n.text()
	if !ok {
		return
	}
	low, high, dots := strings.Cut(text, "..")
	if !dots {
		n.complain("E009", "retry: %s is not a range of times; write the first and the longest wait, such as 5s..2m", quote(text))
		return
	}
	from0, ok0 := n.durationOf(low, shortest, longest)
	to, ok1 := n.durationOf(high, shortest, longest)
	switch {
	case !ok0 || !ok1:
	case from0 > to:
		n.complain("E124", "retry: %s is empty: the shorter wait comes first", quote(text))
	default:
		c.retry = setting[[2]time.Duration]{[2]time.Duration{from0, to}, from, n}
	}
}

// publish is what c means for a point. It reports times that contradict each other, where the mistake
// was made: a heartbeat that was written with the poll period in view and cannot be kept (E180).
func (c cadence) publish() gateway.Publish {
	least, most, poll := c.atLeast, c.atMost, c.poll
	if least.value > 0 && least.value < poll.value && least.level >= max(poll.level, byDefaults) {
		least.node.complain("E180", "at_least_every %s is shorter than the poll period %s%s",
			shortTime(least.value), shortTime(poll.value), writtenOn(poll.node))
	}
	if least.value > 0 && most.value > least.value {
		n := most.node
		if least.level > most.level {
			n = least.node
		}
		n.complain("E182", "at_most_every %s is longer than at_least_every %s%s; make it the shorter one",
			shortTime(most.value), shortTime(least.value), writtenOn(least.node))
	}
	return gateway.Publish{On: c.on.value, AtLeastEvery: least.value, AtMostEvery: most.value}
}

// writtenOn is " (line 5)", or " (built in)".
func writtenOn(n node) string {
	if n.yaml == nil {
		return " (built in)"
	}
	return fmt.Sprintf(" (line %d)", n.at.line)
}
