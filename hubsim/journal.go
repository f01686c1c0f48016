package hubsim

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// journalHead begins every file of messages: what it is and the version of its form.
const journalHead = "hubsim1\n"

// records reads and decodes the part.
func (p part) records() ([]record, error) {
	data := p.data
	if p.path != "" {
		f, err := os.Open(p.path)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		data = make([]byte, p.to-p.from)
		if _, err := io.ReadFull(io.NewSectionReader(f, p.from, p.to-p.from), data); err != nil {
			return nil, err
		}
	}
	var all []record
	for len(data) > 0 {
		r, n, err := parseRecord(data)
		if err != nil {
			return nil, err
		}
		all, data = append(all, r), data[n:]
	}
	return all, nil
}

// commit writes batches until close is called and nothing is left, and returns the error that makes the
// store useless. It is the only one that writes files; in memory it has nothing to do.
func (s *store) commit() error {
	w := &journal{dir: s.dir, block: s.block}
	defer w.close()
	for {
		b, first, more := s.take()
		if !more {
			return nil
		}
		last := first + uint64(len(b.offsets)) - 1
		written, fresh, err := w.write(b, first)
		if err != nil {
			err = fmt.Errorf("hubsim: storing messages in %s: %w", s.dir, err)
			s.fail(err)
			return err
		}
		for _, old := range s.publish(b, written, fresh) {
			if err := os.Remove(old.path); err != nil {
				s.fail(err)
				return fmt.Errorf("hubsim: dropping the oldest messages: %w", err)
			}
		}
		for _, waiting := range b.waiting {
			waiting.stored(last)
		}
	}
}

// take waits for a batch; first is its first sequence. There are no more once the store is closed.
func (s *store) take() (b batch, first uint64, more bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.batch.offsets) == 0 {
		if s.closing {
			s.failure = errStopped
			return b, 0, false
		}
		s.work.Wait()
	}
	b = s.batch
	s.batch = batch{number: b.number + 1}
	s.drained.Broadcast()
	return b, s.next - uint64(len(b.offsets)), true
}

// publish makes a synced batch visible and returns what fell out of the bound.
func (s *store) publish(b batch, g *segment, fresh bool) []*segment {
	s.mu.Lock()
	defer s.mu.Unlock()
	if fresh {
		s.segments = append(s.segments, g)
		s.bytes += g.length
	} else {
		g = s.segments[len(s.segments)-1]
	}
	for _, offset := range b.offsets {
		g.offsets = append(g.offsets, uint32(g.length)+offset)
	}
	g.length += int64(len(b.data))
	s.bytes += int64(len(b.data))
	s.durable.Store(g.last())
	s.announce()
	return s.evict()
}

func (s *store) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failure = err
	s.drained.Broadcast()
}

// close lets commit finish what is waiting and return.
func (s *store) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closing = true
	s.work.Broadcast()
}

// journal is the file that is being written.
type journal struct {
	dir    string
	block  int64
	file   *os.File
	length int64
}

// write puts a batch whose first message has the sequence first on disk: written and synced. fresh is
// the new segment if one was begun.
func (w *journal) write(b batch, first uint64) (g *segment, fresh bool, err error) {
	if w.file == nil || w.length+int64(len(b.data)) > w.block {
		if g, err = w.begin(first); err != nil {
			return nil, false, err
		}
		fresh = true
	}
	if _, err := w.file.Write(b.data); err != nil {
		return nil, false, err
	}
	w.length += int64(len(b.data))
	return g, fresh, unix.Fdatasync(int(w.file.Fd()))
}

func (w *journal) begin(first uint64) (*segment, error) {
	w.close()
	path := filepath.Join(w.dir, fmt.Sprintf("%020d.log", first))
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	w.file, w.length = f, int64(len(journalHead))
	if _, err := f.WriteString(journalHead); err != nil {
		return nil, err
	}
	if err := syncDir(w.dir); err != nil {
		return nil, err
	}
	return &segment{first: first, path: path, length: w.length}, nil
}

func (w *journal) close() {
	if w.file != nil {
		_ = w.file.Close() // everything in it is synced
	}
}

// recover reads the files of a former run and tells seen of every message. The newest file may end in
// the middle of a record that was never acknowledged: cut is how many bytes were cut off there.
func (s *store) recover(seen func(record)) (cut int64, err error) {
	if s.dir == "" {
		return 0, nil
	}
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return 0, err
	}
	paths, err := filepath.Glob(filepath.Join(s.dir, "*.log"))
	if err != nil {
		return 0, err
	}
	slices.Sort(paths)
	for i, path := range paths {
		g, torn, err := readSegment(path, seen)
		if err != nil {
			return 0, err
		}
		if torn > 0 {
			if i < len(paths)-1 {
				return 0, fmt.Errorf("%s is damaged at byte %d; move it away to go on without its messages", path, g.length)
			}
			if err := truncate(path, g.length); err != nil {
				return 0, err
			}
			cut = torn
		}
		if len(g.offsets) == 0 {
			if err := os.Remove(path); err != nil {
				return 0, err
			}
			s.next = max(s.next, g.first)
			continue
		}
		s.segments = append(s.segments, g)
		s.bytes += g.length
		s.next = g.last() + 1
	}
	s.durable.Store(s.next - 1)
	return cut, nil
}

// readSegment reads one file; torn is how many bytes behind its last whole record are no record.
func readSegment(path string, seen func(record)) (g *segment, torn int64, err error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, 0, err
	}
	g = &segment{path: path}
	if _, err := fmt.Sscanf(filepath.Base(path), "%020d.log", &g.first); err != nil {
		return nil, 0, fmt.Errorf("%s: not a name of ours; move it away", path)
	}
	if len(data) < len(journalHead) {
		return g, int64(len(data)), nil
	}
	if string(data[:len(journalHead)]) != journalHead {
		return nil, 0, fmt.Errorf("%s: not a file of messages of this version; move it away", path)
	}
	g.length = int64(len(journalHead))
	for g.length < int64(len(data)) {
		r, n, err := parseRecord(data[g.length:])
		if err != nil || r.sequence != g.last()+1 {
			return g, int64(len(data)) - g.length, nil
		}
		seen(r)
		g.offsets = append(g.offsets, uint32(g.length))
		g.length += int64(n)
	}
	return g, 0, nil
}

func truncate(path string, length int64) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.Truncate(length), f.Sync(), f.Close())
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// writeFile replaces a file as a whole: after a crash it is the old or the new one.
func writeFile(path string, data []byte, mode os.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return syncDir(filepath.Dir(path))
}
