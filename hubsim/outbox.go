package hubsim

import (
	"net"
	"sync"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"
)

const (
	// writeLimit is how long a client may refuse to read before its connection ends.
	writeLimit = 30 * time.Second
	// maxOffered is how many bytes may wait before offer refuses.
	maxOffered = 1 << 20
	// maxUnwritten is how many bytes may wait for a client before the hub stops reading from it.
	maxUnwritten = 64 << 10
)

// outbox is everything on its way to one client. PUBACKs leave in the order of the publishes, each once
// its message is stored. One goroutine writes: what came together while it wrote leaves in one write.
type outbox struct {
	conn  net.Conn
	limit int     // of PUBACKs that wait (D2C-26)
	dials []*dial // set before run

	mu      sync.Mutex // guards the fields below
	buf     []byte     // the next write
	spare   []byte     // the memory of the last one
	acks    []pendingAck
	durable uint64 // the newest sequence on disk, as far as it was told

	wake chan struct{} // holds one: there is work
	room chan struct{} // holds one: something left
}

// pendingAck is a PUBACK that waits for the disk, for the ones before it, or for DelayAcks.
type pendingAck struct {
	packet   uint16
	drop     bool
	sequence uint64 // of the message; 0 needs no disk
	due      time.Time
}

func newOutbox(conn net.Conn, limit int) *outbox {
	return &outbox{conn: conn, limit: limit, wake: make(chan struct{}, 1), room: make(chan struct{}, 1)}
}

// ack queues a PUBACK. It tells whether the client must wait: wait says for what.
func (o *outbox) ack(a pendingAck) (full bool) {
	o.mu.Lock()
	if len(o.acks) == 0 && a.sequence == 0 && a.due.IsZero() {
		o.put(a)
	} else {
		o.acks = append(o.acks, a)
	}
	full = o.isFull()
	o.mu.Unlock()
	notify(o.wake)
	return full
}

// put moves a PUBACK to the bytes that go out; the caller holds mu.
func (o *outbox) put(a pendingAck) {
	if !a.drop {
		o.buf = append(o.buf, packets.Puback<<4, 2, byte(a.packet>>8), byte(a.packet))
	}
}

func (o *outbox) isFull() bool { return len(o.acks) >= o.limit || len(o.buf) >= maxUnwritten }

// wait returns once there is room for another publish; false means that the session ends.
func (o *outbox) wait(closing <-chan struct{}) bool {
	for {
		o.mu.Lock()
		full := o.isFull()
		o.mu.Unlock()
		if !full {
			return true
		}
		select {
		case <-o.room:
		case <-closing:
			return false
		}
	}
}

// stored releases the PUBACKs of messages up to a sequence.
func (o *outbox) stored(upTo uint64) {
	o.mu.Lock()
	o.durable = max(o.durable, upTo)
	o.mu.Unlock()
	notify(o.wake)
}

// send queues a whole packet.
func (o *outbox) send(packet []byte) {
	o.mu.Lock()
	o.buf = append(o.buf, packet...)
	o.mu.Unlock()
	notify(o.wake)
}

// offer queues a whole packet that may be lost, unless too much waits for the client already.
func (o *outbox) offer(packet []byte) bool {
	o.mu.Lock()
	fits := len(o.buf) < maxOffered
	if fits {
		o.buf = append(o.buf, packet...)
	}
	o.mu.Unlock()
	notify(o.wake)
	return fits
}

// run writes until stop closes; then it writes what is ready and returns. Its error is the connection's.
func (o *outbox) run(stop <-chan struct{}) error {
	timer := time.NewTimer(time.Hour)
	timer.Stop()
	defer timer.Stop()
	for {
		data, due := o.take(time.Now())
		if len(data) > 0 {
			if err := o.write(data); err != nil {
				return err
			}
			continue
		}
		if !due.IsZero() {
			timer.Reset(time.Until(due))
		}
		select {
		case <-o.wake:
		case <-timer.C:
		case <-stop:
			data, _ := o.take(time.Now())
			return o.write(data)
		}
	}
}

func (o *outbox) write(data []byte) error {
	if len(data) == 0 {
		return nil
	}
	if err := o.conn.SetWriteDeadline(time.Now().Add(writeLimit)); err != nil {
		return err
	}
	for _, d := range o.dials {
		if d.cut.Load() && d.cut.CompareAndSwap(true, false) {
			_, _ = o.conn.Write(data[:len(data)-1])
			return errKicked
		}
	}
	_, err := o.conn.Write(data)
	return err
}

// take returns the bytes that may go out now; they are valid until the following call. due is when the
// next PUBACK may, if only time holds it.
func (o *outbox) take(now time.Time) (data []byte, due time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	n := 0
	for _, a := range o.acks {
		if a.sequence > o.durable {
			break
		}
		if a.due.After(now) {
			due = a.due
			break
		}
		o.put(a)
		n++
	}
	o.acks = append(o.acks[:0], o.acks[n:]...)
	data = o.buf
	o.buf, o.spare = o.spare[:0], data
	if n > 0 || len(data) > 0 {
		notify(o.room)
	}
	return data, due
}

// notify leaves one note for whoever looks next.
func notify(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
