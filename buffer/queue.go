package buffer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
	"go.etcd.io/bbolt"

	gateway "iothub-gateway"
)

// What callers branch on; errors.Is finds them in the chain.
var (
	// ErrClosed: Run has ended or the queue was closed. Nothing was stored.
	ErrClosed = errors.New("the queue is closed")
	// ErrInUse: another process has the queue.
	ErrInUse = errors.New("the queue is in use")
	// ErrFormat: the file, or a record of it, is of a form that this program does not know.
	ErrFormat = errors.New("unknown format")
	// ErrTooLarge: the hub would never accept the message (D2C-15, D2C-24). Nothing was stored.
	ErrTooLarge = errors.New("message too large")
	// ErrDamaged: the file holds something that was not written there.
	ErrDamaged = errors.New("damaged")
)

// Config says where the queue is and what it may take. The zero value of a limit: none.
type Config struct {
	// Dir is the directory of the queue's files and holds nothing else. It is made if it does not exist,
	// but not the one that it stands in.
	Dir string
	// MaxBytes and LaneMaxBytes are how much all entries and those of one lane may take, in bytes of
	// keys and records.
	MaxBytes, LaneMaxBytes int64
	// MaxAge is how long an entry may be in the queue.
	MaxAge time.Duration
	// WhenFull is what a Put does that would exceed a limit of size.
	WhenFull WhenFull
	Batch    Batch
	// Inspect opens the queue for a tool that delivers nothing and does not know Batch: whether messages are
	// packs stays as it was.
	Inspect bool
	// GenerationBytes is how large a file gets before the next one is begun; 0: 64 MiB.
	GenerationBytes int64
	// Clock is the time and whether it is to be believed; nil: time.Now, always.
	Clock func() (now time.Time, good bool)
	boot  boot // the machine's; tests have their own
	// Check is CheckFile in a process of its own (ChildCheck); nil: in this one.
	Check func(ctx context.Context, path string) (Report, error)
	// Log hears when the file fails and when it works again.
	Log zerolog.Logger
}

// Queue is the queue of all identities in one directory. Its methods may be called from any goroutine.
type Queue struct {
	cfg    Config
	log    zerolog.Logger
	places places
	recent *recent
	boot   boot
	clocks atomic.Pointer[clocks] // never nil
	commit func(*bbolt.Tx) error  // (*bbolt.Tx).Commit; tests make it fail
	// letters opens the dead letters when they are needed first.
	letters     func() (*deadStore, error)
	lettersUsed atomic.Bool

	now  chan struct{} // capacity 1: something waits for a commit
	soon chan struct{} // capacity 1: due has become earlier
	done chan struct{} // closed when nothing can be committed any more

	committer committer // owned by the goroutine in Run

	mu                sync.Mutex // guards the fields below
	id                string     // "" until the files are open, like the next two
	lock              io.Closer
	aside             []string // files that are not read
	state             state
	closed            bool
	lanes             map[gateway.IdentityID]*Lane
	open              *batch    // what waits for the committer
	acked             []*Lane   // lanes with acknowledgements that wait for it
	due               time.Time // when the patience of the least patient of them is over; zero: nobody has any
	lastCommit        time.Time // when the committer last took something
	commits           uint64
	fullAt, fullSince time.Time // when a limit was last exceeded, and since when it is
	failure           error     // why nothing can be written; nil if it can
	since             time.Time // since when that is so
}

type state uint8

const (
	idle     state = iota // before Run
	running               // Puts are committed
	stopping              // no new Puts; those that wait are committed
	ended                 // after Run
)

// Open opens the queue in a directory and makes it if there is none. It starts no goroutine: Put waits
// until Run does. It reads the keys of all entries, some million a second, and the whole of the newest
// file; after a crash it has Config.Check look at every file first.
//
// A file that is damaged or of a newer program is set aside, and what is whole in a damaged one goes
// on. Sequences that were lost are delivered as gaps; if the newest file was damaged, the queue goes on
// under a new id. The only error is ErrInUse, after a second, if another process has the queue: whatever else is
// wrong, with the directory or the disk, stands in Health and is what Put returns, and Run tries
// again every second.
func Open(cfg Config) (*Queue, error) {
	q, err := attempt(context.Background(), cfg, 0)
	if errors.Is(err, ErrInUse) {
		return nil, fmt.Errorf("buffer: queue %s: %w", cfg.Dir, err)
	}
	if err != nil {
		q = newQueue(cfg)
		q.unavailable(err)
	}
	return q, nil
}

func newQueue(cfg Config) *Queue {
	q := &Queue{
		cfg:    cfg,
		log:    cfg.Log,
		boot:   cfg.boot,
		commit: (*bbolt.Tx).Commit,
		now:    make(chan struct{}, 1),
		soon:   make(chan struct{}, 1),
		done:   make(chan struct{}),
		lanes:  map[gateway.IdentityID]*Lane{},
		open:   newBatch(),
		since:  time.Now(),
	}
	if q.boot.since == nil {
		q.boot = thisBoot()
	}
	q.clocks.Store(&clocks{})
	q.letters = sync.OnceValues(func() (*deadStore, error) {
		return openDeadLetters(filepath.Join(filepath.Dir(cfg.Dir), deadName), cfg.Log)
	})
	return q
}

// makeDir makes the directory unless it is there. Its name is on disk when makeDir returns.
func makeDir(dir string) error {
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return syncDir(filepath.Dir(dir))
}

// ID is the random id that the file got at its birth, 16 hexadecimal digits. Together with an
// entry's identity and sequence it names the entry for ever.
func (q *Queue) ID() string {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.id
}

// Lane is the queue of one identity; the same *Lane for the same id. An identity that never had an
// entry has an empty one.
func (q *Queue) Lane(id gateway.IdentityID) *Lane {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.lane(id)
}

// lane needs mu.
func (q *Queue) lane(id gateway.IdentityID) *Lane {
	l := q.lanes[id]
	if l == nil {
		l = &Lane{q: q, id: id, next: 1}
		q.lanes[id] = l
	}
	return l
}

// Put makes ts durable and returns nil when all of them are on disk; it is one transaction, so none
// of them is there without the others. Within an identity they keep their order and get the next
// lane sequences. Put copies what it needs. It waits for Run to have started.
//
// ErrTooLarge and ErrClosed mean that nothing was stored. ctx.Err() means that the caller stopped
// waiting: the entries may still become durable and be delivered. Any other error is the disk's:
// normally nothing was stored; if even that cannot be found out, the error says so.
func (q *Queue) Put(ctx context.Context, ts ...gateway.Telemetry) error {
	return q.PutWithin(ctx, 0, ts...)
}

// PutWithin is Put for those that can wait: the commit comes when somebody else needs one, when
// someone calls Hurry, or patience after the commit before; at once, if that is so long ago. Each commit
// writes some eight pages of 4 KiB, however little it holds: a hundred small Puts a second that share two
// commits write a fortieth.
func (q *Queue) PutWithin(ctx context.Context, patience time.Duration, ts ...gateway.Telemetry) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	records := make([][]byte, len(ts))
	for i, t := range ts {
		if t.Identity == "" {
			return fmt.Errorf("buffer: put %d of %d: no identity", i+1, len(ts))
		}
		if err := fits(t); err != nil {
			return fmt.Errorf("buffer: put %d of %d for %s: %w", i+1, len(ts), t.Identity, err)
		}
		records[i] = encodeRecord(kindData, t, q.stamps(t.Created))
	}
	if len(ts) == 0 {
		return nil
	}
	return q.hand(ctx, patience, ts, records)
}

// Hurry ends the patience of every PutWithin that waits now.
func (q *Queue) Hurry() { signal(q.now) }

// Beat returns when the goroutine in Run has come by, which is soon unless it hangs: nil if the file
// can be written as far as is known, else the failure that it is trying to get over, ErrClosed, or
// ctx.Err().
func (q *Queue) Beat(ctx context.Context) error { return q.hand(ctx, 0, nil, nil) }

// hand gives a Put to the committer and waits for its answer.
func (q *Queue) hand(ctx context.Context, patience time.Duration, ts []gateway.Telemetry, records [][]byte) error {
	b, c, err := q.enter(patience, ts, records)
	if err != nil {
		return err
	}
	select {
	case <-b.done:
	case <-ctx.Done():
		return ctx.Err()
	}
	if b.err == nil && len(c.refused) > 0 {
		return &gateway.FullError{Identities: c.refused}
	}
	return b.err
}

// enter adds the records to the batch that the committer takes next.
func (q *Queue) enter(patience time.Duration, ts []gateway.Telemetry, records [][]byte) (*batch, *call, error) {
	c := &call{puts: make([]pending, len(records))}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.state >= stopping {
		return nil, nil, q.errClosed()
	}
	for i, r := range records {
		c.puts[i] = pending{lane: q.lane(ts[i].Identity), record: r}
	}
	if len(records) > 0 {
		q.open.calls = append(q.open.calls, c)
	}
	q.waitSinceLast(patience)
	return q.open, c, nil
}

// enterAck tells the committer that l has acknowledgements. Nobody has told it yet.
func (q *Queue) enterAck(l *Lane) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.acked = append(q.acked, l)
	q.waitSinceLast(ackPatience)
}

// signal wakes the one that waits on a channel of capacity 1, now or when it next looks.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func (q *Queue) isClosed() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.closed
}

func (q *Queue) errClosed() error {
	return fmt.Errorf("buffer: queue %s: %w", q.cfg.Dir, ErrClosed)
}

// Close closes the files. Call it when Run has returned, or instead of Run; while Run is working it
// does nothing but return an error. Next and Put return ErrClosed from then on.
func (q *Queue) Close() error {
	q.mu.Lock()
	state := q.state
	if state == idle {
		q.state = ended
		close(q.done)
	}
	b := q.open
	q.mu.Unlock()
	switch state {
	case running, stopping:
		return fmt.Errorf("buffer: queue %s: closed while Run is working; end its context and wait for it", q.cfg.Dir)
	case idle:
		b.refuse(q.errClosed())
	}
	q.mu.Lock()
	ours := q.lock != nil && !q.closed
	q.closed = true
	q.mu.Unlock()
	var letters error
	if q.lettersUsed.Load() {
		if d, err := q.letters(); err == nil {
			letters = d.store.close()
		}
	}
	if ours {
		_ = clearMarker(q.cfg.Dir, markerRunning) // if it stays, more is checked than needed
	}
	if err := errors.Join(letters, q.release()); err != nil { // a second time there is nothing to give back
		return fmt.Errorf("buffer: queue %s: close: %w", q.cfg.Dir, err)
	}
	return nil
}

func ignoreClosed(err error) error {
	if errors.Is(err, os.ErrClosed) {
		return nil
	}
	return err
}
