package buffer

import (
	"context"
	"errors"
	"fmt"

	gateway "iothub-gateway"
)

// op takes elements of a lane away for a reason other than a limit of size. Each is a transaction of
// its own.
type op struct {
	lane   *Lane
	reason string
	// from decides, on the committer's goroutine, behind which sequence the elements are. Readers are
	// kept from what is behind.
	from  func() uint64
	more  func(next fact) bool
	alone bool // nothing else becomes a part of the gap
	// check, if set, tells whether there is still a reason.
	check func() error

	done    chan struct{} // closed when err is set; nil if nobody waits
	err     error
	dropped uint64
}

func (o *op) finish(err error) {
	if o.done == nil {
		return
	}
	select {
	case <-o.done:
	default:
		o.err = err
		close(o.done)
	}
}

// operate carries out an op. The error is the file's: nothing more can be written now.
func (q *Queue) operate(o *op) error {
	if o.check != nil {
		if err := o.check(); err != nil {
			o.finish(err)
			return nil
		}
	}
	w := q.newWork()
	w.op = o
	ch := w.of(o.lane)
	ch.drop = newDropper(w, o.lane, o.from(), o.reason)
	ch.drop.alone = o.alone
	if err := ch.drop.take(o.more); err != nil {
		q.undo(w)
		o.finish(err)
		return err
	}
	o.dropped = ch.drop.entries
	q.seal(w)
	return q.execute(w)
}

// ask hands o to the committer and waits for its answer.
func (q *Queue) ask(ctx context.Context, o *op) error {
	o.done = make(chan struct{})
	q.mu.Lock()
	if q.state >= stopping {
		q.mu.Unlock()
		return q.errClosed()
	}
	q.open.ops = append(q.open.ops, o)
	signal(q.now)
	q.mu.Unlock()
	select {
	case <-o.done:
		return o.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// one is an op on the one element e; reading it may fail for the reason that it is taken away for.
func (l *Lane) one(e element, reason string) *op {
	return &op{
		lane: l, reason: reason, alone: true,
		from: func() uint64 {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.freezeAt(e.first - 1)
			return e.first - 1
		},
		more: func(next fact) bool { return next.last <= e.last },
		check: func() error {
			l.mu.Lock()
			defer l.mu.Unlock()
			if now := l.same([]element{e}); len(now) == 0 || l.acked >= e.last {
				return errChanged
			}
			return nil
		},
	}
}

// errChanged: the element is not there any more.
var errChanged = errors.New("it has left")

// condemn puts a gap in the place of an element that cannot be read, because of damage.
func (q *Queue) condemn(ctx context.Context, l *Lane, e element, damage error) error {
	if err := q.ask(ctx, l.one(e, ReasonDamaged)); err != nil {
		if errors.Is(err, errChanged) {
			return nil
		}
		return err
	}
	q.log.Error().Err(damage).Str("identity", string(l.id)).Uint64("first", e.first).Uint64("last", e.last).
		Msg("the disk has lost an entry: a gap is delivered in its place; check the disk")
	return nil
}

// Drop drops the entries of an identity that are there now, but not those in flight, and returns how
// many that were. A gap entry, which is delivered, says so. After a restart the oldest MaxInFlight entries
// count as in flight, as the hub may have them already: with all they are dropped too, unless somebody
// has read the lane since. Drop waits for Run to have started; the error is the disk's, ErrClosed or
// ctx.Err().
func (q *Queue) Drop(ctx context.Context, id gateway.IdentityID, all bool) (n int64, err error) {
	q.mu.Lock()
	l := q.lanes[id]
	q.mu.Unlock()
	if l == nil {
		return 0, nil
	}
	l.mu.Lock()
	last := l.last()
	l.mu.Unlock()
	from := l.freeze
	if all {
		from = l.freezeUnread
	}
	for {
		left := maxAcks
		o := &op{lane: l, reason: ReasonOperator, from: from, more: func(next fact) bool {
			left--
			return left >= 0 && next.last <= last
		}}
		if err := q.ask(ctx, o); err != nil {
			return n, err
		}
		n += int64(o.dropped)
		if left >= 0 || o.dropped == 0 {
			return n, nil
		}
	}
}

// Dead says that the hub never takes the entry seq, the lane's oldest that is not acknowledged. It goes
// to the dead letters, and a gap, which Next returns after the entry before it, takes its place. It is
// durable when Dead returns nil. A pack of several is cut in two instead: Next then returns its first
// half after the entry before it. A gap cannot be dead: it is acknowledged.
func (l *Lane) Dead(ctx context.Context, seq uint64, reason string) error {
	if halved, err := l.halve(ctx, seq); halved || err != nil {
		return err
	}
	l.mu.Lock()
	elements := l.chain.appendTo(nil, l.from(0), 1)
	l.mu.Unlock()
	if len(elements) == 0 || elements[0].last != seq {
		return fmt.Errorf("buffer: %s entry %d is not the oldest that waits for the hub", l.id, seq)
	}
	entries, _, err := l.read(ctx, elements, l.q.clocks.Load())
	if err != nil {
		return err
	}
	if len(entries) == 0 {
		return fmt.Errorf("buffer: %s entry %d: %w", l.id, seq, errChanged)
	}
	e := entries[0]
	if e.Gap != nil {
		l.mu.Lock()
		l.returned = max(l.returned, seq)
		l.mu.Unlock()
		l.Ack(seq)
		return nil
	}
	message := e
	if messages, _ := l.layout(e.First-1).messages(entries[:1], 1); len(messages) > 0 {
		message = messages[0]
	}
	now, _ := l.q.clock()
	if err := l.q.bury(ctx, DeadLetter{ID: message.ID(), Telemetry: e.Telemetry, Reason: reason, Time: now}); err != nil {
		return fmt.Errorf("buffer: %s entry %d cannot become a dead letter: %w", l.id, seq, err)
	}
	return l.q.ask(ctx, l.one(elements[0], ReasonDeadLetter))
}

// deadName is the file of the dead letters, beside the queue's directory.
const deadName = "dead.db"

func (q *Queue) dead() (*deadStore, error) {
	q.lettersUsed.Store(true)
	return q.letters()
}

// bury keeps a dead letter durably, once.
func (q *Queue) bury(ctx context.Context, letter DeadLetter) error {
	d, err := q.dead()
	if err != nil {
		return err
	}
	return d.add(ctx, letter)
}

// DeadLetters returns the entries that the hub never took, the oldest first; the queue keeps the newest
// 10,000 of them, at most 64 MiB.
func (q *Queue) DeadLetters() ([]DeadLetter, error) {
	d, err := q.dead()
	if err != nil {
		return nil, err
	}
	return d.list()
}

// Replay puts a dead letter back as a new entry, and forgets the letter when that is durable: after a
// crash in between both are there.
func (q *Queue) Replay(ctx context.Context, id string) error {
	d, err := q.dead()
	if err != nil {
		return err
	}
	letter, err := d.get(id)
	if err != nil {
		return err
	}
	if err := q.Put(ctx, letter.Telemetry); err != nil {
		return err
	}
	return d.remove(id)
}

// Forget removes a dead letter.
func (q *Queue) Forget(_ context.Context, id string) error {
	d, err := q.dead()
	if err != nil {
		return err
	}
	return d.remove(id)
}
