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
	// GenerationBytes is how large a file gets before the next one is begun; 0: 64 MiB.
	GenerationBytes int64
	// Clock is the time and whether it is to be believed; nil: time.Now, always.
	Clock func() (now time.Time, good bool)
	// Log hears when the file fails and when it works again.
	Log zerolog.Logger
}

// Queue is the queue of all identities in one file. Its methods may be called from any goroutine.
type Queue struct {
	cfg    Config
	id     string
	lock   io.Closer
	log    zerolog.Logger
	file   *file
	recent *recent
	commit func(*bbolt.Tx) error // (*bbolt.Tx).Commit; tests make it fail

	now  chan struct{} // capacity 1: something waits for a commit
	soon chan struct{} // capacity 1: acknowledgements wait, which may do so for ackDelay
	done chan struct{} // closed when nothing can be committed any more

	committer committer // owned by the goroutine in Run

	mu      sync.Mutex // guards the fields below
	state   state
	lanes   map[gateway.IdentityID]*Lane
	open    *batch  // Puts that wait for the committer
	acked   []*Lane // lanes with acknowledgements that wait for it
	commits uint64
}

type state uint8

const (
	idle     state = iota // before Run
	running               // Puts are committed
	stopping              // no new Puts; those that wait are committed
	ended                 // after Run
)

// Open opens the queue file and makes it if there is none. It starts no goroutine: Put waits until
// Run does. It reads the keys of all entries, about 8 million a second. The error wraps ErrInUse
// after a second if another process has the file, ErrFormat if the file is not a queue or of a
// newer program, in which case it is left untouched, and ErrDamaged.
func Open(cfg Config) (*Queue, error) {
	if err := makeDir(cfg.Dir); err != nil {
		return nil, fmt.Errorf("buffer: the directory of the queue: %w", err)
	}
	lock, err := lockDirectory(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("buffer: queue %s: %w", cfg.Dir, err)
	}
	path := filepath.Join(cfg.Dir, "00000001.db")
	f, err := openFile(path)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("buffer: queue file %s: %w", path, err), lock.Close())
	}
	q := &Queue{
		cfg:    cfg,
		lock:   lock,
		log:    cfg.Log,
		file:   f,
		commit: (*bbolt.Tx).Commit,
		now:    make(chan struct{}, 1),
		soon:   make(chan struct{}, 1),
		done:   make(chan struct{}),
		lanes:  map[gateway.IdentityID]*Lane{},
		open:   newBatch(),
	}
	err = f.view(context.Background(), q.load)
	if err == nil {
		err = q.nextEpoch()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("buffer: queue file %s: %w", path, err), f.close(), lock.Close())
	}
	q.recent = newRecent(recentEntries, recentBytes, q.committer.global+1)
	return q, nil
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
func (q *Queue) ID() string { return q.id }

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
		records[i] = encodeRecord(kindData, t, stamps{})
	}
	if len(ts) == 0 {
		return nil
	}
	return q.hand(ctx, ts, records)
}

// Beat returns when the goroutine in Run has come by, which is soon unless it hangs: nil if the file
// can be written as far as is known, else the failure that it is trying to get over, ErrClosed, or
// ctx.Err().
func (q *Queue) Beat(ctx context.Context) error { return q.hand(ctx, nil, nil) }

// hand gives records to the committer and waits for its answer.
func (q *Queue) hand(ctx context.Context, ts []gateway.Telemetry, records [][]byte) error {
	b, err := q.enter(ts, records)
	if err != nil {
		return err
	}
	select {
	case <-b.done:
		return b.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// enter adds the records to the batch that the committer takes next.
func (q *Queue) enter(ts []gateway.Telemetry, records [][]byte) (*batch, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.state >= stopping {
		return nil, q.errClosed()
	}
	for i, r := range records {
		q.open.puts = append(q.open.puts, pending{q.lane(ts[i].Identity), r})
	}
	signal(q.now)
	return q.open, nil
}

// enterAck tells the committer that l has acknowledgements. Nobody has told it yet.
func (q *Queue) enterAck(l *Lane) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.acked = append(q.acked, l)
	signal(q.soon)
}

// signal wakes the one that waits on a channel of capacity 1, now or when it next looks.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func (q *Queue) errClosed() error {
	return fmt.Errorf("buffer: queue file %s: %w", q.file.path, ErrClosed)
}

// Close closes the file. Call it when Run has returned, or instead of Run; while Run is working it
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
		return fmt.Errorf("buffer: queue file %s: closed while Run is working; end its context and wait for it", q.file.path)
	case idle:
		b.finish(q.errClosed())
	}
	// A second time there is nothing to give back.
	if err := errors.Join(q.file.close(), ignoreClosed(q.lock.Close())); err != nil {
		return fmt.Errorf("buffer: queue file %s: close: %w", q.file.path, err)
	}
	return nil
}

func ignoreClosed(err error) error {
	if errors.Is(err, os.ErrClosed) {
		return nil
	}
	return err
}

// Counts are the figures of a lane or of all lanes.
type Counts struct {
	Entries int64     // entries in the file
	Bytes   int64     // their records and keys
	Oldest  time.Time // creation time of the oldest; zero if there is none or it cannot be read
	Put     uint64    // entries ever accepted, since the birth of the file
	Acked   uint64    // entries that have left, since the birth of the file
}

// Stats are the figures of the queue.
type Stats struct {
	Counts         // of all lanes
	Commits uint64 // transactions since Open
	Lanes   map[gateway.IdentityID]Counts
}

// Stats reads counters; its cost is that of the number of lanes, not of entries. An entry that was
// acknowledged counts until that is on disk.
func (q *Queue) Stats() Stats {
	q.mu.Lock()
	s := Stats{Commits: q.commits, Lanes: make(map[gateway.IdentityID]Counts, len(q.lanes))}
	lanes := make([]*Lane, 0, len(q.lanes))
	for _, l := range q.lanes {
		lanes = append(lanes, l)
	}
	q.mu.Unlock()
	for _, l := range lanes {
		c := l.counts()
		s.Lanes[l.id] = c
		s.Entries += c.Entries
		s.Bytes += c.Bytes
		s.Put += c.Put
		s.Acked += c.Acked
		if s.Oldest.IsZero() || !c.Oldest.IsZero() && c.Oldest.Before(s.Oldest) {
			s.Oldest = c.Oldest
		}
	}
	return s
}
