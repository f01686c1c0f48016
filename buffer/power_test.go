package buffer_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"iothub-gateway/buffer"
	"iothub-gateway/internal/powerfs"
)

const (
	// recordedLog is a record of the load that is kept, so that the proof also runs where nothing can
	// be mounted, and old records find new mistakes.
	recordedLog = "testdata/power.log.gz"
	// hang is how long an image may take before it counts as hanging.
	hang = 30 * time.Second
)

// proof checks images of records and counts what it saw.
type proof struct {
	inFlight  atomic.Int64 // images with something on disk that was being put
	unborn    atomic.Int64 // images from before the queue's birth
	unacked   atomic.Int64 // images in which acknowledgements were lost
	checked   atomic.Int64
	continued atomic.Int64 // images with which the work went on
	replayed  atomic.Int64 // images with a journal to replay
	repaired  atomic.Int64 // that e2fsck had to repair before ext4 took them
	gaps      atomic.Int64 // in all images
	packs     atomic.Int64 // in all images
}

func (p *proof) String() string {
	return fmt.Sprintf("%d images: %d with the commit in flight, %d without acknowledgements, %d from before the birth, work went on with %d; %d gaps, %d packs",
		p.checked.Load(), p.inFlight.Load(), p.unacked.Load(), p.unborn.Load(), p.continued.Load(), p.gaps.Load(), p.packs.Load())
}

// images checks n images of log, from what had been said before it, on as many goroutines as there are
// processors. The error is the first violation.
func (p *proof) images(log *powerfs.Log, from said, n int, seed uint64) error {
	const workers = 2
	var wait sync.WaitGroup
	errs := make([]error, workers)
	var failed atomic.Bool
	for w := range workers {
		wait.Go(func() {
			errs[w] = p.some(log, from, n/workers, rand.New(rand.NewPCG(seed, uint64(w))), &failed)
			if errs[w] != nil {
				failed.Store(true)
			}
		})
	}
	wait.Wait()
	return errors.Join(errs...)
}

// some checks n images at random moments of log, until one has failed.
func (p *proof) some(log *powerfs.Log, from said, n int, random *rand.Rand, failed *atomic.Bool) error {
	dir, err := os.MkdirTemp(fastDir(), "buffer-power-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	moments, born := make([]int, n), log.Born()
	for i := range moments {
		moments[i] = born + random.IntN(len(log.Ops)+1-born)
	}
	slices.Sort(moments)
	player := powerfs.NewPlayer(log)
	at := 0
	for i, moment := range moments {
		player.Advance(moment)
		if from, err = from.after(log.Ops[at:moment]); err != nil || failed.Load() {
			return err
		}
		at = moment
		if err := p.image(player.Image(random), dir, from, i%8 == 0); err != nil {
			return fmt.Errorf("operation %d of %d: %w", moment, len(log.Ops), err)
		}
	}
	return nil
}

// image checks one image, in dir, which it leaves empty.
func (p *proof) image(im powerfs.Image, dir string, s said, goOn bool) error {
	late := time.AfterFunc(hang, func() { panic("the queue hangs on an image of a power cut") })
	defer late.Stop()
	if err := im.Store(dir); err != nil {
		return err
	}
	found, err := p.verify(dir, s)
	if err != nil {
		return err
	}
	p.checked.Add(1)
	if goOn {
		p.continued.Add(1)
		if err := carryOn(dir, found); err != nil {
			return fmt.Errorf("when the work goes on: %w", err)
		}
	}
	return errors.Join(clearDir(dir))
}

// carryOn puts one more entry into each lane, acknowledges the oldest, and opens the queue once more.
func carryOn(dir string, found said) error {
	q, err := buffer.Open(powerConfig(dir))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- q.Run(ctx) }()
	want := found
	for l := range powerLanes {
		w := &want.lanes[l]
		w.put++
		if err := q.Put(ctx, paddedMessage(l, w.put)); err != nil {
			return err
		}
		entries, err := q.Lane(laneID(l)).Next(ctx, 0, 1)
		if err != nil {
			return err
		}
		w.acked, w.started = int(entries[0].Seq), w.put
		q.Lane(laneID(l)).Ack(entries[0].Seq)
	}
	cancel()
	if err := errors.Join(<-ended, q.Close()); err != nil {
		return err
	}
	got, err := new(proof).verify(dir, want)
	for l := range powerLanes {
		if g, w := got.lanes[l], want.lanes[l]; err == nil && (g.put != w.put || g.acked != w.acked) {
			err = fmt.Errorf("lane %d: %d put and %d acknowledged, want %d and %d", l, g.put, g.acked, w.put, w.acked)
		}
	}
	return err
}

// fastDir is where images are opened: in memory if possible.
func fastDir() string {
	if info, err := os.Stat("/dev/shm"); err == nil && info.IsDir() {
		return "/dev/shm"
	}
	return ""
}

func clearDir(dir string) error {
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		err = errors.Join(err, os.RemoveAll(dir+"/"+e.Name()))
	}
	return err
}

func TestAPowerCutLosesNothingThatWasAccepted(t *testing.T) {
	log := readRecord(t, recordedLog)
	if log.Format != powerFormat() {
		t.Fatalf("%s was recorded with %q, this is %q: record it again: RECORD=1 go test -run OfWhatIsRecordedNow ./buffer", recordedLog, log.Format, powerFormat())
	}
	p := &proof{}
	if err := p.images(log, said{}, 500, 1); err != nil {
		t.Error(err)
	}
	t.Log(p)
	if p.inFlight.Load() == 0 || p.unborn.Load() == 0 || p.unacked.Load() == 0 || p.gaps.Load() == 0 {
		t.Error("the record has no image of one of these kinds: the test tests too little")
	}
}

func TestAPowerCutOfWhatIsRecordedNowLosesNothing(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	record := os.Getenv("RECORD") != ""
	if record {
		seed = 30 // a load with everything: see loadConfig
	}
	log := recordPower(t, powerfs.Image{}, seed)
	if record {
		writeRecord(t, log, recordedLog)
	}
	p := &proof{}
	if err := p.images(log, said{}, 300, seed); err != nil {
		t.Errorf("seed %d: %v", seed, err)
	}
	t.Logf("seed %d: %v", seed, p)
}

func readRecord(t *testing.T, path string) *powerfs.Log {
	t.Helper()
	log, err := openRecord(path)
	if err != nil {
		t.Fatal(err)
	}
	return log
}

func openRecord(path string) (*powerfs.Log, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return powerfs.ReadLog(file)
}

func writeRecord(t *testing.T, log *powerfs.Log, path string) {
	t.Helper()
	var b bytes.Buffer
	if err := errors.Join(log.Save(&b), os.MkdirAll("testdata", 0o755), os.WriteFile(path, b.Bytes(), 0o600)); err != nil {
		t.Fatal(err)
	}
}
