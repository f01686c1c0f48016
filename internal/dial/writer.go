package dial

import (
	"net"
	"sync"
	"time"
)

const (
	// maxUnsent is how much may wait to be sent before Write waits too.
	maxUnsent = 64 << 10
	// maxPiece is what one write takes, a TLS record at most.
	maxPiece = 16 << 10
	// closeWait is how long Close gives what still waits.
	closeWait = 250 * time.Millisecond
)

// writer sends what is written to it from a goroutine that lives only while there is something to
// send. The MQTT client writes packet by packet; what comes while a write is under way leaves with the
// next one, in one TLS record and one system call.
type writer struct {
	conn    net.Conn
	timeout time.Duration

	mu      sync.Mutex // guards the fields below
	changed sync.Cond  // an end of sending, or room again
	unsent  []byte
	spare   []byte // the buffer that is not being filled
	sending bool
	closing bool
	closeBy time.Time // if closing
	failure error
}

func newWriter(conn net.Conn, timeout time.Duration) *writer {
	w := &writer{conn: conn, timeout: timeout}
	w.changed.L = &w.mu
	return w
}

// Write takes b and returns before it is sent. It waits while too much is unsent; a failure to send
// is returned by the next Write.
func (w *writer) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for len(w.unsent) > maxUnsent && w.failure == nil && !w.closing {
		w.changed.Wait()
	}
	switch {
	case w.failure != nil:
		return 0, w.failure
	case w.closing:
		return 0, net.ErrClosed
	}
	w.unsent = append(w.unsent, b...)
	if !w.sending {
		w.sending = true
		go w.send()
	}
	return len(b), nil
}

// send writes until nothing waits; then it gives the buffers back, so that an idle connection holds none.
func (w *writer) send() {
	w.mu.Lock()
	for len(w.unsent) > 0 && w.failure == nil {
		batch := w.unsent
		w.unsent = w.spare[:0]
		w.mu.Unlock()
		err := w.flush(batch)
		w.mu.Lock()
		w.spare, w.failure = batch, err
		w.changed.Broadcast()
	}
	failed := w.failure != nil
	w.unsent, w.spare, w.sending = nil, nil, false
	w.changed.Broadcast()
	w.mu.Unlock()
	if failed {
		_ = w.conn.Close() // whoever reads must learn of it too
	}
}

// failed is why nothing can be sent any more; nil if all is well.
func (w *writer) failed() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.failure
}

// flush writes batch in pieces, each with a deadline of its own: on a slow line it is progress that
// counts, not how much was handed over.
func (w *writer) flush(batch []byte) error {
	for len(batch) > 0 {
		piece := batch[:min(len(batch), maxPiece)]
		batch = batch[len(piece):]
		if err := w.arm(); err != nil {
			return err
		}
		if _, err := w.conn.Write(piece); err != nil {
			return err
		}
	}
	return nil
}

// arm sets the deadline of the next write; once the connection is being closed, the one of the close.
func (w *writer) arm() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	deadline := time.Now().Add(w.timeout)
	if w.closing && w.closeBy.Before(deadline) {
		deadline = w.closeBy
	}
	return w.conn.SetWriteDeadline(deadline)
}

// Close sends what waits, for a moment at most, and ends the connection.
func (w *writer) Close() error {
	w.mu.Lock()
	if !w.closing {
		w.closing, w.closeBy = true, time.Now().Add(closeWait)
	}
	w.changed.Broadcast()
	if w.sending {
		// Shortens the write that is under way; one that starts now shortens itself.
		_ = w.conn.SetWriteDeadline(w.closeBy)
	}
	for w.sending {
		w.changed.Wait()
	}
	w.mu.Unlock()
	return w.conn.Close()
}
