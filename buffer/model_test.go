package buffer_test

import (
	"fmt"
	"math/rand/v2"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	gateway "iothub-gateway"
	"iothub-gateway/buffer"
)

// modelLane is what a lane must be.
type modelLane struct {
	bodies        []string // [i] is sequence i+1
	handed, acked int
}

// model drives a queue and a model of it with the same random operations.
type model struct {
	t     *testing.T
	rng   *rand.Rand
	path  string
	q     *buffer.Queue
	disk  *faulty
	stop  func()
	lanes map[gateway.IdentityID]*modelLane
	n     int // makes bodies differ
}

func TestTheQueueBehavesAsItsModel(t *testing.T) {
	for seed := range uint64(12) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := &model{t: t, rng: rand.New(rand.NewPCG(seed, 0)), path: queuePath(t), lanes: map[gateway.IdentityID]*modelLane{}}
				for i := range 1 + m.rng.IntN(6) {
					m.lanes[laneID(i)] = &modelLane{}
				}
				m.open()
				for range 250 {
					m.step()
				}
				m.reopen()
				m.stop()
			})
		})
	}
}

func (m *model) open() { m.q, m.disk, m.stop = startFaulty(m.t, m.path) }

func (m *model) step() {
	switch p := m.rng.IntN(100); {
	case p < 40:
		m.put()
	case p < 65:
		m.read()
	case p < 85:
		m.ack()
	case p < 95:
		pass(time.Duration(m.rng.IntN(30)) * time.Millisecond)
	case p < 97:
		m.reopen()
	default:
		m.fail()
	}
	m.compare()
}

func (m *model) some() (gateway.IdentityID, *modelLane) {
	id := laneID(m.rng.IntN(len(m.lanes)))
	return id, m.lanes[id]
}

// entries makes up to 5 entries over random lanes; accept adds them to the model.
func (m *model) entries() (ts []gateway.Telemetry, accept func()) {
	for range 1 + m.rng.IntN(5) {
		m.n++
		id, _ := m.some()
		body := fmt.Sprint(m.n, " ", string(make([]byte, m.rng.IntN(3000))))
		ts = append(ts, gateway.Telemetry{Identity: id, Body: []byte(body), Created: time.Now()})
	}
	return ts, func() {
		for _, t := range ts {
			m.lanes[t.Identity].bodies = append(m.lanes[t.Identity].bodies, string(t.Body))
		}
	}
}

func (m *model) put() {
	ts, accept := m.entries()
	put(m.t, m.q, ts...)
	accept()
}

// fail puts while the commit fails, in one of the ways there are.
func (m *model) fail() {
	ts, accept := m.entries()
	var stored, told bool
	switch m.rng.IntN(3) {
	case 0:
		m.disk.next(lost(syscall.EIO))
	case 1:
		m.disk.next(kept(syscall.EIO))
		stored, told = true, true
	case 2:
		m.disk.next(kept(syscall.EIO), lost(syscall.EIO))
		stored = true
	}
	if err := m.q.Put(m.t.Context(), ts...); (err == nil) != told {
		m.t.Fatalf("Put: %v", err)
	}
	if stored {
		accept()
	}
	pass(1100 * time.Millisecond)
}

func (m *model) read() {
	id, l := m.some()
	after := l.acked + m.rng.IntN(len(l.bodies)-l.acked+1)
	if after == len(l.bodies) {
		return // Next would wait
	}
	got, err := m.q.Lane(id).Next(m.t.Context(), uint64(after), 1+m.rng.IntN(10))
	if err != nil {
		m.t.Fatal(err)
	}
	for _, e := range got {
		if after++; int(e.Seq) != after || string(e.Telemetry.Body) != l.bodies[after-1] {
			m.t.Fatalf("%s: entry %d is wrong", id, after)
		}
	}
	l.handed = max(l.handed, after)
}

func (m *model) ack() {
	id, l := m.some()
	seq := l.acked + m.rng.IntN(l.handed-l.acked+1)
	m.q.Lane(id).Ack(uint64(seq))
	l.acked = seq
}

// compare checks what can be seen at any time.
func (m *model) compare() {
	s := m.q.Stats()
	for id, l := range m.lanes {
		c := s.Lanes[id]
		if int(c.Put) != len(l.bodies) || int(c.Acked) > l.acked || c.Entries != int64(c.Put-c.Acked) || (c.Entries == 0) != (c.Bytes == 0) {
			m.t.Fatalf("%s: %+v, want %d put and at most %d acked", id, c, len(l.bodies), l.acked)
		}
	}
}

// reopen ends the queue and opens it again: everything is there, and nothing that was acknowledged.
func (m *model) reopen() {
	m.stop()
	m.open()
	s := m.q.Stats()
	for id, l := range m.lanes {
		l.handed = l.acked
		if c := s.Lanes[id]; int(c.Acked) != l.acked {
			m.t.Fatalf("%s: %+v, want %d acked", id, c, l.acked)
		}
		if left := len(l.bodies) - l.acked; left > 0 {
			for i, e := range next(m.t, m.q.Lane(id), 0, left) {
				if string(e.Telemetry.Body) != l.bodies[l.acked+i] {
					m.t.Fatalf("%s: entry %d is wrong", id, e.Seq)
				}
			}
			l.handed = len(l.bodies)
		}
	}
}
