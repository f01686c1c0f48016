package buffer_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
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

// laneSaid is what the load had said about a lane.
type laneSaid struct {
	started int // it had begun to put entries up to this one
	put     int // entries up to this one had been accepted
	acked   int // it was about to acknowledge up to this one
}

// said is what the load had said at a moment.
type said struct {
	born  string // the queue's id
	lanes [powerLanes]laneSaid
}

func (s *said) hear(note string) error {
	var a, n, b, m int
	verb, rest, _ := strings.Cut(note, " ")
	_, _ = fmt.Sscan(rest, &a, &n, &b, &m) // as many as there are; nothing else is written here
	switch verb {
	case "born":
		s.born = rest
	case "start":
		s.lanes[a].started, s.lanes[b].started = n, m
	case "put":
		s.lanes[a].put, s.lanes[b].put = n, m
	case "ack":
		s.lanes[a].acked = n
	default:
		return fmt.Errorf("note %q", note)
	}
	return nil
}

// after is what had been said when ops had happened as well.
func (s said) after(ops []powerfs.Op) (said, error) {
	for i := range ops {
		if ops[i].Kind == powerfs.Note {
			if err := s.hear(string(ops[i].Data)); err != nil {
				return s, err
			}
		}
	}
	return s, nil
}

// proof checks images of records and counts what it saw.
type proof struct {
	inFlight  atomic.Int64 // images with something on disk that was being put
	unborn    atomic.Int64 // images from before the queue's birth
	unacked   atomic.Int64 // images in which acknowledgements were lost
	checked   atomic.Int64
	continued atomic.Int64 // images with which the work went on
	replayed  atomic.Int64 // images with a journal to replay
}

func (p *proof) String() string {
	return fmt.Sprintf("%d images: %d with the commit in flight, %d without acknowledgements, %d from before the birth, work went on with %d",
		p.checked.Load(), p.inFlight.Load(), p.unacked.Load(), p.unborn.Load(), p.continued.Load())
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

// verify holds the queue in dir against what had been said, and returns what it found as if it had
// been said.
func (p *proof) verify(dir string, s said) (said, error) {
	q, err := buffer.Open(powerConfig(dir))
	if err != nil {
		return said{}, err
	}
	found, err := p.compare(q, s)
	return found, errors.Join(err, q.Close())
}

func (p *proof) compare(q *buffer.Queue, s said) (said, error) {
	found := said{born: q.ID()}
	if s.born == "" {
		p.unborn.Add(1)
	} else if q.ID() != s.born {
		return found, fmt.Errorf("the queue %s became another one, %s", s.born, q.ID())
	}
	counts := q.Stats().Lanes
	inFlight, unacked := false, false
	for l := range powerLanes {
		c, want := counts[laneID(l)], s.lanes[l]
		put, acked := int(c.Put), int(c.Acked)
		switch {
		case put != want.put && put != want.started:
			return found, fmt.Errorf("lane %d ends with entry %d: %d had been accepted, %d begun", l, put, want.put, want.started)
		case acked > want.acked:
			return found, fmt.Errorf("lane %d: entry %d is gone, only %d was acknowledged", l, acked, want.acked)
		}
		if err := readBack(q, l, acked, put); err != nil {
			return found, err
		}
		found.lanes[l] = laneSaid{put, put, acked}
		inFlight = inFlight || put != want.put
		unacked = unacked || acked < want.acked
	}
	for l := 0; l < powerLanes; l += 2 {
		if a, b := s.lanes[l], s.lanes[l+1]; a.put != a.started && b.put != b.started &&
			(found.lanes[l].put == a.started) != (found.lanes[l+1].put == b.started) {
			return found, fmt.Errorf("lanes %d and %d: half of a Put is there", l, l+1)
		}
	}
	if inFlight {
		p.inFlight.Add(1)
	}
	if unacked {
		p.unacked.Add(1)
	}
	return found, nil
}

// readBack reads lane l from behind acked to its end and holds every entry against the one that was put.
func readBack(q *buffer.Queue, l, acked, put int) error {
	for n := acked; n < put; {
		entries, err := q.Lane(laneID(l)).Next(context.Background(), uint64(n), put)
		if err != nil {
			return err
		}
		for _, e := range entries {
			n++
			want := paddedMessage(l, n)
			if int(e.Seq) != n || !bytes.Equal(e.Telemetry.Body, want.Body) || !e.Telemetry.Created.Equal(want.Created) || !slices.Equal(e.Telemetry.Properties, want.Properties) {
				return fmt.Errorf("lane %d: entry %d is %d %.40s", l, n, e.Seq, e.Telemetry.Body)
			}
		}
	}
	return nil
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
	if err == nil && got != want {
		err = fmt.Errorf("%+v is there, want %+v", got, want)
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
	if p.inFlight.Load() == 0 || p.unborn.Load() == 0 || p.unacked.Load() == 0 {
		t.Error("the record has no image of one of these kinds: the test tests too little")
	}
}

func TestAPowerCutOfWhatIsRecordedNowLosesNothing(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	log := recordPower(t, powerfs.Image{}, seed)
	if os.Getenv("RECORD") != "" {
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
