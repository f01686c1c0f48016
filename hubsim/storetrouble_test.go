package hubsim

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"
)

func TestAStoreThatCannotWriteSaysSoAndAcknowledgesNothing(t *testing.T) {
	dir := t.TempDir()
	s := newStore(filepath.Join(dir, "messages"), 1<<20, nil)
	if _, err := s.recover(func(record) {}); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if _, err := s.append(&record{identity: "d"}, &waiter{stored: func(uint64) { t.Error("told that it is stored") }}); err != nil {
		t.Fatal(err)
	}
	if err := s.commit(); err == nil {
		t.Fatal("commit found nothing wrong")
	}
	if _, err := s.append(&record{identity: "d"}, &waiter{}); err == nil {
		t.Error("a store that failed takes messages")
	}
	if s.durable.Load() != 0 {
		t.Error("durable moved")
	}
}

func TestAReaderInTheMiddleOfWhatIsDroppedGoesOnWithTheOldest(t *testing.T) {
	inMemoryAndOnDisk(t, func(t *testing.T, dir string) {
		s := openStore(t, dir, minBlock)
		body := string(bytes.Repeat([]byte("x"), 20000))
		for range 3 {
			s.put(t, body)
		}
		found, ok, _ := s.find(0, 1)
		if !ok {
			t.Fatal("nothing is stored")
		}
		for range 30 {
			s.put(t, body)
		}
		if dir != "" {
			if _, err := found.records(); !os.IsNotExist(err) {
				t.Errorf("reading a dropped file: %v", err)
			}
		}
		records, _ := s.page(0, 10)
		if len(records) == 0 || records[0].sequence < 20 {
			t.Errorf("after everything old was dropped, page(0) has %d messages", len(records))
		}
	})
}

func TestAWaitingReaderIsWoken(t *testing.T) {
	inMemoryAndOnDisk(t, func(t *testing.T, dir string) {
		s := openStore(t, dir, 1<<20)
		for i := range 20 {
			records, newer := s.page(uint64(i), 10)
			if len(records) != 0 {
				t.Fatalf("%d messages behind %d", len(records), i)
			}
			s.put(t, "x")
			select {
			case <-newer:
			case <-time.After(5 * time.Second):
				t.Fatal("nobody woke the reader")
			}
		}
	})
}

func TestAFileThatCannotBeReadIsReportedAndSteppedOver(t *testing.T) {
	for name, spoil := range map[string]func(path string) error{
		"gone":    os.Remove,
		"damaged": func(path string) error { return os.WriteFile(path, make([]byte, 1<<20), 0o600) },
		"short":   func(path string) error { return os.Truncate(path, 20) },
	} {
		dir := t.TempDir()
		s := openStore(t, dir, 16*minBlock)
		complaints := 0
		s.complain = func(error) { complaints++ }
		for range 5 {
			s.put(t, string(bytes.Repeat([]byte("x"), 30000)))
		}
		if err := spoil(filepath.Join(dir, "00000000000000000001.log")); err != nil {
			t.Fatal(err)
		}
		records, _ := s.page(0, 10)
		if len(records) == 0 || records[0].sequence != 3 {
			t.Errorf("%s: the page begins with %+v, want message 3", name, records)
		}
		if want := map[string]int{"gone": 0, "damaged": 1, "short": 1}[name]; complaints != want {
			t.Errorf("%s: %d complaints, want %d", name, complaints, want)
		}
	}
}

func TestASlowDiskHoldsPublishersBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore(t.TempDir(), 1<<30, nil)
		if _, err := s.recover(func(record) {}); err != nil {
			t.Fatal(err)
		}
		taken := make(chan int)
		go func() {
			w := &waiter{stored: func(uint64) {}}
			n := 0
			for range 40 {
				if _, err := s.append(&record{identity: "d", body: make([]byte, maxMessage)}, w); err == nil {
					n++
				}
			}
			taken <- n
		}()
		synctest.Wait()
		s.mu.Lock()
		waiting := len(s.batch.data)
		s.mu.Unlock()
		if waiting < maxBatch || waiting > maxBatch+2*maxMessage {
			t.Errorf("%d bytes wait for a disk that does nothing, want about %d", waiting, maxBatch)
		}
		go func() {
			if err := s.commit(); err != nil {
				t.Error(err)
			}
		}()
		if n := <-taken; n != 40 {
			t.Errorf("%d of 40 messages were taken", n)
		}
		s.close()
	})
}
