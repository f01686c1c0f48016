package buffer

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

const (
	// maxChecked is how large a file may be that is checked after any stop that was none.
	maxChecked = 256 << 20
	// formerName is the queue file of format 1, beside the directory.
	formerName = "queue.db"
	// patience is how often opening fails because a file cannot be read before that is damage.
	patience = 5
)

// What stands in the name of a file that was set aside.
const (
	asideDamaged = "damaged"
	asideNewer   = "newer-format"
)

// recovery makes the files of a directory fit to be opened.
type recovery struct {
	q        *Queue
	ctx      context.Context
	unclean  bool // the last process did not close the queue
	died     bool // it died while it opened the files
	thorough bool // read every file, whatever the markers say
	numbers  []int
}

// prepare takes in a file of format 1, checks the generations, replaces those that are damaged by
// what is whole in them, and makes a first one if there is none. The last of the numbers it returns can
// be written to.
func (q *Queue) prepare(ctx context.Context, thorough bool) (numbers []int, err error) {
	dir := q.cfg.Dir
	r := recovery{q: q, ctx: ctx, thorough: thorough}
	_, r.unclean = readMarker(dir, markerRunning)
	_, r.died = readMarker(dir, markerOpening)
	// Without a marker, on a full disk perhaps, only a check is missed.
	if !r.unclean {
		_ = setMarker(dir, markerRunning, "")
	}
	_ = setMarker(dir, markerOpening, "")
	if r.numbers, err = listGenerations(dir); err != nil {
		return nil, err
	}
	if err := r.takeIn(); err != nil {
		return nil, err
	}
	for _, n := range slices.Backward(slices.Clone(r.numbers)) { // the newest first
		if err := r.look(n); err != nil {
			return nil, fmt.Errorf("%s: %w", generationPath(dir, n), err)
		}
	}
	if len(r.numbers) == 0 {
		err = r.born(heritage{id: newID(), first: 1})
	}
	return r.numbers, err
}

// takeIn makes a file of format 1, which stands beside the directory, the first generation.
func (r *recovery) takeIn() error {
	former := filepath.Join(filepath.Dir(r.q.cfg.Dir), formerName)
	if len(r.numbers) > 0 {
		return nil // Health names it
	}
	info, err := os.Lstat(former)
	if errors.Is(err, fs.ErrNotExist) || err == nil && info.Size() == 0 {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode().IsRegular() {
		file, err := os.Open(former)
		if err != nil {
			return err
		}
		defer func() { _ = file.Close() }()    // it was only locked
		if err := lockFile(file); err != nil { // a former version is at work
			return fmt.Errorf("%s: %w", former, err)
		}
	}
	if err := publish(former, generationPath(r.q.cfg.Dir, 1)); err != nil {
		return err
	}
	r.numbers = []int{1}
	return syncDir(filepath.Dir(former))
}

// born makes the next generation.
func (r *recovery) born(h heritage) error {
	number, err := nextNumber(r.q.cfg.Dir)
	if err != nil {
		return err
	}
	if err := birth(r.q.cfg.Dir, number, h); err != nil {
		return err
	}
	r.numbers = append(r.numbers, number)
	return nil
}

// look checks one generation and does what has to be done about it.
func (r *recovery) look(n int) error {
	path := generationPath(r.q.cfg.Dir, n)
	newest := n == r.numbers[len(r.numbers)-1]
	report, err := r.inspect(path, newest)
	if errors.Is(err, syscall.EIO) && r.q.committer.tries >= patience {
		report.Damage, err = err.Error(), nil
	}
	switch {
	case err != nil:
		return err
	case report.Newer():
		return r.setAside(n, newest, fmt.Sprintf("%s-%d", asideNewer, report.Format),
			fmt.Sprintf("its format is %d and this program reads up to %d", report.Format, formatVersion))
	case report.Damage != "":
		return r.setAside(n, newest, asideDamaged, report.Damage)
	case newest && report.Format == 1:
		return r.succeed(n, true)
	}
	return nil
}

// inspect finds out whether a generation is sound: the newest always, because bbolt trusts what it
// writes to; the others when the last process may have died over one.
func (r *recovery) inspect(path string, newest bool) (Report, error) {
	info, err := os.Lstat(path)
	switch {
	case err != nil:
		return Report{}, err
	case !info.Mode().IsRegular():
		return Report{Damage: "it is not a regular file"}, nil
	case r.died, r.thorough, r.unclean && info.Size() <= maxChecked:
		return r.check(path)
	case newest:
		return checkPages(r.ctx, path)
	}
	return checkMetas(path)
}

// check has a process of its own look; if there can be none, at least what is safe is done here.
func (r *recovery) check(path string) (Report, error) {
	if r.q.cfg.Check == nil {
		return CheckFile(r.ctx, path)
	}
	report, err := r.q.cfg.Check(r.ctx, path)
	if err == nil || r.ctx.Err() != nil {
		return report, err
	}
	r.q.log.Warn().Err(err).Str("path", path).Msg("a queue file is checked without a process of its own")
	return checkPages(r.ctx, path)
}

// setAside gives the generation another name. What is whole in a damaged one takes its place; if it
// is the newest, another becomes that before: at no moment is the queue without what it knows.
func (r *recovery) setAside(n int, newest bool, why, reason string) error {
	path := generationPath(r.q.cfg.Dir, n)
	if newest {
		if err := r.succeed(n, false); err != nil {
			return err
		}
	}
	tmp, kept := path+tmpSuffix, int64(0)
	if info, err := os.Lstat(path); err == nil && info.Mode().IsRegular() && why == asideDamaged {
		if kept, err = r.salvage(n, tmp); err != nil {
			return fmt.Errorf("what is whole in it cannot be copied: %w", err)
		}
	}
	aside := asideName(path, why, time.Now())
	if kept == 0 {
		if err := errors.Join(removeIfThere(tmp), os.Rename(path, aside)); err != nil {
			return err
		}
		r.numbers = slices.DeleteFunc(r.numbers, func(m int) bool { return m == n })
	} else if err := exchange(tmp, path, aside); err != nil {
		return err
	}
	r.q.log.Error().Str("path", path).Str("aside", aside).Str("reason", reason).Int64("kept", kept).
		Msg("a queue file cannot be used and was set aside; its whole records go on")
	return syncDir(r.q.cfg.Dir)
}

// exchange puts tmp in the place of path, whose file is called aside then. Where the file system has
// links, there is a file called path at every moment.
func exchange(tmp, path, aside string) error {
	if err := os.Link(path, aside); err != nil {
		if err := os.Rename(path, aside); err != nil {
			return err
		}
	}
	return os.Rename(tmp, path)
}

// salvage copies what is whole in generation n to tmp.
func (r *recovery) salvage(n int, tmp string) (kept int64, err error) {
	w, err := openWreck(r.ctx, generationPath(r.q.cfg.Dir, n))
	if err != nil {
		return 0, err
	}
	defer func() { _ = w.Close() }() // it was only read
	w.learn(readNames(r.q.cfg.Dir, w.heritage.id))
	return w.salvage(r.ctx, tmp, r.kin(n))
}

// kin is what the generations beside n know that may be lost in n: the names of identities, and the
// queue id, of the one before rather than of the one after.
func (r *recovery) kin(n int) heritage {
	kin := heritage{id: newID(), identities: map[uint32]string{}} // without an id, repeats of what was sent cannot be told
	for _, m := range slices.Backward(r.numbers) {
		if m == n {
			continue
		}
		w, err := openWreck(r.ctx, generationPath(r.q.cfg.Dir, m))
		if err != nil {
			continue // one that cannot be read knows nothing
		}
		maps.Copy(kin.identities, w.heritage.identities)
		if w.heritage.id != "" {
			kin.id = w.heritage.id
		}
		_ = w.Close() // it was only read
		if m < n {
			break
		}
	}
	return kin
}

// succeed makes the generation after n, which cannot be written to, with what n knows, or if nothing
// can be found out about n, what the one before knows.
func (r *recovery) succeed(n int, sound bool) error {
	h := heritage{id: newID(), first: 1}
	for i, m := range slices.Backward(r.numbers) {
		if m > n {
			continue
		}
		w, err := openWreck(r.ctx, generationPath(r.q.cfg.Dir, m))
		if err != nil {
			continue
		}
		if m < n {
			w.lost++ // what n held
		}
		w.learn(readNames(r.q.cfg.Dir, w.heritage.id))
		h = w.successor(sound)
		_ = w.Close() // it was only read
		if len(h.identities) > 0 || i == 0 {
			break
		}
	}
	return r.born(h)
}

// removeIfThere removes the file at path; that there is none is no error.
func removeIfThere(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// listAside returns the files of the queue that are not read: those that were set aside, and one of
// format 1 that a former version has left while there was a queue already.
func listAside(dir string) (aside []string) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	for _, e := range entries {
		if strings.Contains(e.Name(), "."+asideDamaged+"-") || strings.Contains(e.Name(), "."+asideNewer+"-") {
			aside = append(aside, filepath.Join(dir, e.Name()))
		}
	}
	former := filepath.Join(filepath.Dir(dir), formerName)
	if info, err := os.Stat(former); err == nil && info.Size() > 0 {
		aside = append(aside, former)
	}
	return aside
}

// remedy is what a person can do about err.
func remedy(err error) string {
	switch {
	case errors.Is(err, fs.ErrPermission):
		return fmt.Sprintf("give the directory and its files to user %d, or choose another", os.Getuid())
	case errors.Is(err, syscall.EROFS):
		return "the file system is read-only: mount it writable, and see the kernel's log for why it is not"
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT), errors.Is(err, syscall.EFBIG):
		return "free space"
	case errors.Is(err, syscall.ENOTDIR), errors.Is(err, fs.ErrNotExist):
		return "make the directory, or choose another"
	case errors.Is(err, syscall.EIO):
		return "the disk reports an error: see the kernel's log, and replace it"
	}
	return "see that the disk works and that the directory can be written"
}
