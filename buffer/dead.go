package buffer

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/rs/zerolog"
	"go.etcd.io/bbolt"

	gateway "iothub-gateway"
)

// What the dead letters are bounded by; the oldest make room.
const (
	maxDeadLetters = 10_000
	maxDeadBytes   = 64 << 20
	maxReason      = 1 << 10 // bytes of a reason
)

const (
	bucketLetters = "letters"
	keyLost       = "lost"
)

// deadStore keeps the entries that the hub never takes, in a file of its own. The file is a store:
// "letters" holds order (8 bytes) -> letter, "meta" in "lost" how many made room for others. A letter is
//
//	time: seconds 8, nanoseconds 4 | message id, identity, reason: length, uvarint, and text | record
//
// In memory are the ids and sizes only.
type deadStore struct {
	store store

	mu    sync.Mutex        // guards the fields below, and is held while the file is used
	order map[string]uint64 // by message id
	sizes map[uint64]letterSize
	bytes int
	first uint64 // lowest order, or next if there is none
	next  uint64
	lost  uint64
}

type letterSize struct {
	id    string
	bytes int
}

// openDeadLetters opens the file at path and makes it if there is none. A damaged file is set aside
// and its whole letters go on. The only error is ErrInUse.
func openDeadLetters(path string, log zerolog.Logger) (*deadStore, error) {
	d := &deadStore{}
	d.store = store{path: path, buckets: []string{bucketLetters}, log: log, load: d.load, rescue: d.rescue}
	if err := d.store.open(); err != nil {
		return nil, err
	}
	return d, nil
}

func (d *deadStore) load(tx *bbolt.Tx) error {
	d.order, d.sizes, d.bytes, d.first, d.next = map[string]uint64{}, map[uint64]letterSize{}, 0, 1, 1
	stored := tx.Bucket([]byte(bucketMeta)).Get([]byte(keyLost))
	if content, ok := openValue(bucketMeta, []byte(keyLost), stored); ok && len(content) == 8 {
		d.lost = binary.BigEndian.Uint64(content)
	}
	return tx.Bucket([]byte(bucketLetters)).ForEach(func(k, v []byte) error {
		letter, err := parseLetter(k, v)
		if err != nil {
			return err
		}
		d.added(letter.ID, binary.BigEndian.Uint64(k), len(v))
		return nil
	})
}

// added takes a letter that is in the file into memory.
func (d *deadStore) added(id string, order uint64, size int) {
	if len(d.order) == 0 {
		d.first = order
	}
	d.order[id], d.sizes[order] = order, letterSize{id, size}
	d.bytes += size
	d.next = order + 1
}

// rescue takes over a letter of a damaged file. Copies that were removed before come back as well:
// rather twice than never.
func (d *deadStore) rescue(tx *bbolt.Tx, e item) error {
	if len(e.key) != 8 {
		return nil
	}
	return tx.Bucket([]byte(bucketLetters)).Put(append([]byte{}, e.key...), sealValue(bucketLetters, e.key, e.value))
}

// add stores a letter durably. One with the same id is there already: that is no error.
func (d *deadStore) add(ctx context.Context, letter DeadLetter) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	var order uint64
	var size int
	var out []uint64
	err := d.store.update(func(tx *bbolt.Tx) error {
		if _, there := d.order[letter.ID]; there {
			return nil
		}
		order = d.next
		k := binary.BigEndian.AppendUint64(nil, order)
		v := sealValue(bucketLetters, k, encodeLetter(letter))
		size = len(v)
		bucket := tx.Bucket([]byte(bucketLetters))
		if err := bucket.Put(k, v); err != nil {
			return err
		}
		out = d.makeRoom(size)
		for _, old := range out {
			if err := bucket.Delete(binary.BigEndian.AppendUint64(nil, old)); err != nil {
				return err
			}
		}
		lost := binary.BigEndian.AppendUint64(nil, d.lost+uint64(len(out)))
		return putValue(tx, bucketMeta, []byte(keyLost), lost)
	})
	if err != nil || order == 0 {
		return err
	}
	d.lost += uint64(len(out))
	d.removed(out...)
	d.added(letter.ID, order, size)
	return nil
}

// makeRoom is which letters have to go for one of that size.
func (d *deadStore) makeRoom(size int) (out []uint64) {
	count, bytes := len(d.order)+1, d.bytes+size
	for order := d.first; order < d.next && (count > maxDeadLetters || bytes > maxDeadBytes); order++ {
		if old, there := d.sizes[order]; there {
			count--
			bytes -= old.bytes
			out = append(out, order)
		}
	}
	return out
}

// removed takes letters that are not in the file any more out of memory.
func (d *deadStore) removed(orders ...uint64) {
	for _, order := range orders {
		d.bytes -= d.sizes[order].bytes
		delete(d.order, d.sizes[order].id)
		delete(d.sizes, order)
	}
	for d.first < d.next && d.sizes[d.first].bytes == 0 {
		d.first++
	}
}

// list returns all letters, the oldest first.
func (d *deadStore) list() (letters []DeadLetter, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	err = d.store.view(func(tx *bbolt.Tx) error {
		return tx.Bucket([]byte(bucketLetters)).ForEach(func(k, v []byte) error {
			letter, err := parseLetter(k, v)
			letters = append(letters, letter)
			return err
		})
	})
	return letters, err
}

// get returns the letter of that id.
func (d *deadStore) get(id string) (letter DeadLetter, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	err = d.store.view(func(tx *bbolt.Tx) error {
		order, there := d.order[id]
		if !there {
			return unknownLetter(id)
		}
		k := binary.BigEndian.AppendUint64(nil, order)
		letter, err = parseLetter(k, tx.Bucket([]byte(bucketLetters)).Get(k))
		return err
	})
	return letter, err
}

// remove forgets the letter of that id durably.
func (d *deadStore) remove(id string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	var order uint64
	err := d.store.update(func(tx *bbolt.Tx) error {
		order = d.order[id]
		if order == 0 {
			return unknownLetter(id)
		}
		return tx.Bucket([]byte(bucketLetters)).Delete(binary.BigEndian.AppendUint64(nil, order))
	})
	if err != nil {
		return err
	}
	d.removed(order)
	return nil
}

func unknownLetter(id string) error {
	return fmt.Errorf("buffer: there is no dead letter %q; list them to see which there are", id)
}

func encodeLetter(letter DeadLetter) []byte {
	b := binary.BigEndian.AppendUint64(nil, uint64(letter.Time.Unix()))
	b = binary.BigEndian.AppendUint32(b, uint32(letter.Time.Nanosecond()))
	b = appendText(b, letter.ID)
	b = appendText(b, string(letter.Telemetry.Identity))
	b = appendText(b, letter.Reason[:min(len(letter.Reason), maxReason)])
	return append(b, encodeRecord(kindData, letter.Telemetry, stamps{})...)
}

// parseLetter reads a stored letter; it copies what it returns.
func parseLetter(k, stored []byte) (DeadLetter, error) {
	broken := fmt.Errorf("%w: dead letter %x", ErrDamaged, k)
	content, ok := openValue(bucketLetters, k, stored)
	if !ok || len(content) < 12 || len(k) != 8 {
		return DeadLetter{}, broken
	}
	rest := append([]byte{}, content[12:]...)
	text := func() string {
		n, used := binary.Uvarint(rest)
		if used <= 0 || n > math.MaxInt32 || int(n) > len(rest)-used {
			ok = false
			return ""
		}
		s := string(rest[used : used+int(n)])
		rest = rest[used+int(n):]
		return s
	}
	letter := DeadLetter{ID: text()}
	identity := text()
	letter.Reason = text()
	letter.Time = time.Unix(int64(binary.BigEndian.Uint64(content)), int64(binary.BigEndian.Uint32(content[8:]))).UTC()
	d := decoder{identity: gateway.IdentityID(identity)}
	e, err := d.decode(rest)
	if !ok || err != nil {
		return DeadLetter{}, broken
	}
	letter.Telemetry = e.Telemetry
	return letter, nil
}
