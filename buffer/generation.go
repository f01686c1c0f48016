package buffer

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"go.etcd.io/bbolt"
)

// defaultGeneration is how large a file gets before the next one is begun: small enough that a
// backlog gives its space back piece by piece, large enough that a day's outage is a few dozen files.
const defaultGeneration = 64 << 20

// generation is one file of the queue. Only the newest is written to; the others are sealed, and
// removed when nothing in them is left to deliver.
type generation struct {
	*file
	number int
	// id is the queue id of the records in it that do not bring one. It differs from the queue's after
	// the newest generation was damaged: what is moved into one of another id has to take its id along.
	id      string
	written atomic.Int64 // bytes of the file that are in use

	// Owned by the committer.
	live   int64 // elements in it that have not left
	total  int64 // records in it
	merged bool  // all of it was moved
}

const generationSuffix = ".db"

func generationPath(dir string, number int) string {
	return filepath.Join(dir, fmt.Sprintf("%08d%s", number, generationSuffix))
}

// generationNumber is the number in a file's name; false if it is not a generation's.
func generationNumber(name string) (int, bool) {
	digits, found := strings.CutSuffix(name, generationSuffix)
	n, err := strconv.Atoi(digits)
	return n, found && len(digits) == 8 && err == nil && n > 0
}

// listGenerations returns the numbers of the generations in dir, ascending, and removes what a birth
// that did not end has left.
func listGenerations(dir string) (numbers []int, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		name, unborn := strings.CutSuffix(e.Name(), tmpSuffix)
		n, ok := generationNumber(name)
		if !ok {
			continue
		}
		if info, err := e.Info(); err == nil && info.Mode().IsRegular() && info.Size() == 0 {
			unborn = true
		}
		if !unborn {
			numbers = append(numbers, n)
		} else if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
			return nil, err
		}
	}
	slices.Sort(numbers)
	return numbers, nil
}

// nextNumber is the number of the generation to be born: no file that is or was there has it.
func nextNumber(dir string) (int, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return 0, err
	}
	highest := 0
	for _, e := range entries { // also of those that were set aside
		name, _, _ := strings.Cut(e.Name(), ".")
		if n, ok := generationNumber(name + generationSuffix); ok {
			highest = max(highest, n)
		}
	}
	return highest + 1, nil
}

// heritage is what a generation gets at its birth.
type heritage struct {
	id         string
	first      uint64 // the next global sequence
	epoch      uint32
	identities map[uint32]string
	marks      map[uint32]mark
	next       map[uint32]uint64 // lane sequences
	other      []value           // of cuts and clock
}

// mark is what has left a lane: everything up to a lane sequence, and its global sequence.
type mark struct{ seq, global uint64 }

// value is content in a bucket other than the log; without content it is removed.
type value struct {
	bucket       string
	key, content []byte
}

func (v value) put(tx *bbolt.Tx) error {
	if v.content == nil {
		return tx.Bucket([]byte(v.bucket)).Delete(v.key)
	}
	return putValue(tx, v.bucket, v.key, v.content)
}

func markValue(number uint32, m mark) value {
	content := binary.BigEndian.AppendUint64(nil, m.seq)
	return value{bucketMarks, numberKey(number), binary.BigEndian.AppendUint64(content, m.global)}
}

func newID() string {
	id := make([]byte, idLen)
	_, _ = rand.Read(id) // never fails
	return hex.EncodeToString(id)
}

// values are the contents of a new generation.
func (h *heritage) values() []value {
	values := []value{
		{bucketMeta, []byte(keyID), []byte(h.id)},
		{bucketMeta, []byte(keyFirst), binary.BigEndian.AppendUint64(nil, h.first)},
		{bucketMeta, []byte(keyEpoch), binary.BigEndian.AppendUint32(nil, h.epoch)},
		{bucketMeta, []byte(keyFormat), binary.BigEndian.AppendUint32(nil, formatVersion)},
	}
	for number, name := range h.identities {
		values = append(values, value{bucketIdentities, numberKey(number), []byte(name)})
	}
	for number, m := range h.marks {
		values = append(values, markValue(number, m))
	}
	for number, seq := range h.next {
		values = append(values, value{bucketNext, numberKey(number), binary.BigEndian.AppendUint64(nil, seq)})
	}
	return append(values, h.other...)
}

// birth makes the generation so that there is never a half-made one under its name: whatever a power
// cut leaves, the file is absent or complete. After an error it is absent, as far as that can be done.
func birth(dir string, number int, h heritage) error {
	path := generationPath(dir, number)
	if err := os.Remove(path + tmpSuffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	err := create(path+tmpSuffix, h)
	if err == nil {
		err = os.Rename(path+tmpSuffix, path)
	}
	if err == nil {
		err = syncDir(dir)
	}
	if err != nil {
		_, _ = os.Remove(path+tmpSuffix), os.Remove(path) // one of them is there
	}
	return err
}

// create writes an empty generation and has it on disk when it returns.
func create(path string, h heritage) error {
	options := boltOptions()
	options.OpenFile = nil
	db, err := bbolt.Open(path, 0o600, options)
	if err != nil {
		return err
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		for _, name := range buckets() {
			if _, err := tx.CreateBucket([]byte(name)); err != nil {
				return err
			}
		}
		for _, v := range h.values() {
			if err := v.put(tx); err != nil {
				return err
			}
		}
		return nil
	})
	return errors.Join(err, db.Sync(), db.Close())
}

// places tells where the entries are. An entry is in the generation that was the newest when it was
// put, or in a newer one that it was moved to.
type places struct {
	mu     sync.RWMutex
	gens   []*generation // ascending
	ranges []place       // ascending
}

// place says that the entries from the global sequence first on, up to the next place, are in gen.
type place struct {
	first uint64
	gen   *generation
}

// of is the generation with the entry at global.
func (p *places) of(global uint64) *generation {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return p.at(global)
}

func (p *places) at(global uint64) *generation {
	i := sort.Search(len(p.ranges), func(i int) bool { return p.ranges[i].first > global })
	return p.ranges[max(i-1, 0)].gen
}

func (p *places) newest() *generation {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return p.gens[len(p.gens)-1]
}

func (p *places) all() []*generation {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return slices.Clone(p.gens)
}

// has tells whether gen is still one of the files.
func (p *places) has(gen *generation) bool {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return slices.Contains(p.gens, gen)
}

// begin makes gen the newest, with the entries from first on.
func (p *places) begin(gen *generation, first uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.gens = append(p.gens, gen)
	p.ranges = append(p.ranges, place{first, gen})
}

// move says that what was in from, up to a global sequence, is in to.
func (p *places) move(from *generation, upTo uint64, to *generation) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var ranges []place
	for i, r := range p.ranges {
		last := i == len(p.ranges)-1
		switch {
		case r.gen != from || r.first > upTo:
			ranges = append(ranges, r)
		case !last && p.ranges[i+1].first <= upTo+1:
			ranges = append(ranges, place{r.first, to})
		default:
			ranges = append(ranges, place{r.first, to}, place{upTo + 1, from})
		}
	}
	p.ranges = slices.CompactFunc(ranges, func(a, b place) bool { return a.gen == b.gen })
}

// end takes away a generation that holds nothing.
func (p *places) end(gen *generation) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.gens = slices.DeleteFunc(slices.Clone(p.gens), func(g *generation) bool { return g == gen })
	p.ranges = slices.DeleteFunc(slices.Clone(p.ranges), func(r place) bool { return r.gen == gen })
}

// note tells that the entry at global is in gen. It is for loading: from the newest entry to the oldest.
func (p *places) note(global uint64, gen *generation) {
	if n := len(p.ranges); n > 0 && p.ranges[n-1].gen == gen {
		p.ranges[n-1].first = global
		return
	}
	p.ranges = append(p.ranges, place{global, gen})
}

// noted ends the noting: what is put from now on, at next and beyond, is in the newest of gens.
func (p *places) noted(gens []*generation, next uint64) {
	slices.Reverse(p.ranges)
	p.gens = gens
	newest := gens[len(gens)-1]
	if n := len(p.ranges); n == 0 || p.ranges[n-1].gen != newest {
		p.ranges = append(p.ranges, place{next, newest})
	}
}
