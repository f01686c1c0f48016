package buffer_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"iothub-gateway/buffer"
	"iothub-gateway/internal/testkit"
)

// sealedWith puts n entries, lets whoever wants read them, and begins a second file, so that the first
// is not read as a whole when the queue is opened.
func sealedWith(t *testing.T, cfg buffer.Config, n int, read func(*buffer.Queue)) {
	t.Helper()
	q, stop := startWith(t, cfg)
	put(t, q, messages("a", 1, n)...)
	read(q)
	stop()
	cfg.GenerationBytes = 1
	q, stop = startWith(t, cfg)
	put(t, q, message("c", 1))
	testkit.Eventually(t, "there are two files", func() bool { return q.Stats().Generations == 2 })
	stop()
}

func TestALostEntryNeverStopsALaneOfPacks(t *testing.T) {
	for name, read := range map[string]func(*buffer.Queue){
		"that were not cut yet": func(*buffer.Queue) {},
		"that were cut":         func(q *buffer.Queue) { next(t, q.Lane("a"), 0, 1) },
	} {
		t.Run(name, func(t *testing.T) {
			cfg := buffer.Config{Dir: queuePath(t), Batch: buffer.Batch{MaxBytes: 1 << 16}}
			sealedWith(t, cfg, 10, read)
			edit(t, cfg.Dir, func(tx *bbolt.Tx) error { return flip(tx.Bucket([]byte("log")), logKeys(tx)[4]) })
			q, _ := startWith(t, cfg)
			got := packed(t, q, 0, 1, 10)
			if len(got) != 3 || got[1].Gap == nil || got[1].First != 5 || got[1].Seq != 5 {
				t.Errorf("got %+v", got)
			}
		})
	}
}

func TestAnEntryOfANewerProgramIsToldAfterThePackBeforeIt(t *testing.T) {
	cfg := buffer.Config{Dir: queuePath(t), Batch: buffer.Batch{MaxBytes: 1 << 16, MaxWait: time.Hour}}
	sealedWith(t, cfg, 10, func(*buffer.Queue) {})
	edit(t, cfg.Dir, func(tx *bbolt.Tx) error {
		log, k := tx.Bucket([]byte("log")), logKeys(tx)[4]
		v := bytes.Clone(log.Get(k))
		v[0] = buffer.RecordVersion + 1
		table, end := crc32.MakeTable(crc32.Castagnoli), len(v)-4
		binary.BigEndian.PutUint32(v[end:], crc32.Update(crc32.Checksum(k, table), table, v[:end]))
		return log.Put(k, v)
	})
	q, _ := startWith(t, cfg)
	if got := next(t, q.Lane("a"), 0, 1); got[0].First != 1 || got[0].Seq != 4 {
		t.Errorf("got %+v", got)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if _, err := q.Lane("a").Next(ctx, 4, 1); !errors.Is(err, buffer.ErrFormat) {
		t.Errorf("Next: %v", err)
	}
}
