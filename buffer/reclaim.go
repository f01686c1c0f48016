package buffer

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	gateway "iothub-gateway"
)

// asideTaken stands in the name of a file whose entries were taken in: it is kept, and no longer named
// by Health.
const asideTaken = "taken-in"

// Reclaim puts the entries that wait in a file of Health.Aside back into the queue, as new entries with
// sequences of their own, and returns how many. It is for a file that was of a newer program, once this one is as
// new, and for the queue.db of a former version that was started once more; of a damaged file
// all that is whole went on when it was set aside. An error, or a crash, in between leaves the file as
// it is: doing it again then repeats entries, under new ids. It waits for Run to have started.
func (q *Queue) Reclaim(ctx context.Context, path string) (n int64, err error) {
	if strings.Contains(filepath.Base(path), "."+asideDamaged+"-") {
		return 0, fmt.Errorf("buffer: %s: all that is whole in it is in the queue since it was set aside", path)
	}
	report, err := checkPages(ctx, path)
	if err == nil && report.Newer() {
		err = fmt.Errorf("%w: its format is %d and this program reads up to %d", ErrFormat, report.Format, formatVersion)
	}
	if err != nil {
		return 0, fmt.Errorf("buffer: %s: %w", path, err)
	}
	w, err := openWreck(ctx, path)
	if err != nil {
		return 0, fmt.Errorf("buffer: %s: %w", path, err)
	}
	defer func() { _ = w.Close() }() // it was only read
	err = w.each(ctx, w.heritage.identities, func(all []found) error {
		for len(all) > 0 {
			some := all[:min(len(all), maxRead)]
			all = all[len(some):]
			entries, err := w.entries(some)
			if err != nil {
				return err
			}
			if err := q.Put(ctx, entries...); err != nil {
				return err
			}
			n += int64(len(entries))
		}
		return nil
	})
	if err != nil {
		return n, fmt.Errorf("buffer: %s: after %d entries: %w", path, n, err)
	}
	name, _, _ := strings.Cut(filepath.Base(path), ".db")
	if _, err := rename(path, asideName(filepath.Join(filepath.Dir(path), name+".db"), asideTaken, time.Now())); err != nil {
		return n, err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.aside = listAside(q.cfg.Dir)
	return n, nil
}

// entries reads records; gaps are left out, because what they stand for is gone anyway.
func (w *wreck) entries(all []found) (ts []gateway.Telemetry, err error) {
	for _, f := range all {
		b := make([]byte, keyLen+int(f.size))
		if err := w.read(b, f.at); err != nil {
			return nil, err
		}
		d := decoder{identity: gateway.IdentityID(w.heritage.identities[f.number])}
		e, err := d.decode(b[keyLen:])
		if err != nil {
			return nil, err
		}
		if e.Gap == nil {
			ts = append(ts, e.Telemetry)
		}
	}
	return ts, nil
}
