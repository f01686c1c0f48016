package bridge

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	gateway "iothub-gateway"
	"iothub-gateway/internal/testkit"
)

// pass lets time go by in a bubble.
func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

// later is a boiler whose setpoint is written when the device is there.
type later struct {
	device *plc
	notes  *testkit.Notes
	err    error // of writes
	told   []string
	down   *Down
	writes *Later
	stop   func()
}

func newLater(err error) *later {
	l := &later{device: &plc{}, notes: &testkit.Notes{}, err: err}
	l.device.write = func(context.Context, gateway.PointID, gateway.Value) error { return l.err }
	return l
}

// start is the beginning of a process.
func (l *later) start() {
	cfg := boiler(l.device)
	cfg.Methods = append(cfg.Methods, gateway.Method{Identity: "boiler", Name: "later", Write: "boiler/setpoint", From: "value", Queued: time.Hour})
	cfg.Later = NewLater(l.notes, []string{"boiler"}, func(_ gateway.IdentityID, name string, r gateway.Reply) {
		l.told = append(l.told, fmt.Sprintf("%s %d", name, r.Status))
	})
	l.down = NewDown(cfg)
	cfg.Later.Use(l.down)
	l.writes = cfg.Later
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- cfg.Later.Run(ctx) }()
	l.stop = func() { cancel(); <-ended }
}

func TestAQueuedWriteWaitsForItsDeviceAndIsMadeOnceInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLater(gateway.ErrNoAnswer)
		l.start()
		for _, v := range []int{40, 50} {
			r := call(l.down, "later", fmt.Sprintf(`{"value":%d}`, v))
			if body := answer(t, r); r.Status != 202 || body["waiting"] != float64(v) || body["expires"] != "2000-01-01T01:00:00.000Z" {
				t.Errorf("%d %s", r.Status, r.Body)
			}
		}
		if r := call(l.down, "later", `{"value":900}`); r.Status != 400 {
			t.Errorf("a value that is not allowed: %d %s", r.Status, r.Body)
		}
		pass(10 * time.Minute)
		l.stop() // a restart keeps them
		if tried := len(l.device.written); tried < 10 || strings.Contains(strings.Join(l.device.written, " "), "50") {
			t.Errorf("%d attempts: %v", tried, l.device.written)
		}
		l.device.written, l.err = nil, nil
		l.start()
		pass(time.Minute)
		l.stop()
		if got := fmt.Sprint(l.device.written, l.told, l.notes.All()); got != "[boiler/setpoint=40 boiler/setpoint=50] [later 200 later 200] map[]" {
			t.Error(got)
		}
	})
}

func TestAQueuedWriteIsNotMadeAfterItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLater(gateway.ErrNoAnswer)
		l.start()
		call(l.down, "later", `{"value":40}`)
		pass(30 * time.Minute)
		l.stop()
		l.device.written, l.err = nil, nil
		pass(30 * time.Minute)
		l.start()
		pass(time.Minute)
		l.stop()
		if got := fmt.Sprint(l.device.written, l.told, l.notes.All()); got != "[] [later 504] map[]" {
			t.Error(got)
		}
	})
}

func TestAMessageMayExpireBeforeItsRuleSays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLater(gateway.ErrNoAnswer)
		cfg := boiler(l.device)
		cfg.Later = NewLater(l.notes, nil, nil)
		cfg.Messages = []gateway.MessageRule{{Identity: "boiler", Write: "boiler/lamp", From: "on", Queued: time.Hour}}
		r := NewDown(cfg).Message(t.Context(), gateway.CloudMessage{Identity: "boiler", Body: []byte(`{"on":true}`), Expires: time.Now().Add(time.Minute)})
		if body := answer(t, r); r.Status != 202 || body["expires"] != "2000-01-01T00:01:00.000Z" {
			t.Errorf("%d %s", r.Status, r.Body)
		}
	})
}

func TestAQueuedWriteThatAnEndInterruptedIsUncertainAndNotRepeated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLater(nil)
		text, err := json.Marshal([]entry{{Identity: "boiler", Name: "m1", Point: "boiler/setpoint", Value: []byte(`40`), Expires: time.Now().Add(time.Hour), Begun: true}})
		if err != nil {
			t.Fatal(err)
		}
		_ = l.notes.Put(t.Context(), "waiting/boiler", text) // it is in memory
		l.start()
		synctest.Wait()
		l.stop()
		if got := fmt.Sprint(l.device.written, l.told, l.notes.All()); got != "[] [m1 504] map[]" {
			t.Error(got)
		}
	})
}

func TestAQueuedWriteIsJudgedByTheMappingOfItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLater(nil)
		_ = l.notes.Put(t.Context(), "waiting/boiler", []byte(`[{"identity":"boiler","name":"a","point":"boiler/setpoint","value":900,"expires":"2000-01-02T00:00:00Z"},
			{"identity":"boiler","name":"b","point":"boiler/gone","value":1,"expires":"2000-01-02T00:00:00Z"},
			{"identity":"other","name":"c","point":"boiler/setpoint","value":40,"expires":"2000-01-02T00:00:00Z"}]`))
		l.start()
		synctest.Wait()
		l.stop()
		if got := fmt.Sprint(l.device.written, l.told); got != "[] [a 400 b 404 c 404]" {
			t.Error(got)
		}
	})
}

func TestNothingWaitsOrIsWrittenThatIsNotOnDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLater(nil)
		l.start()
		l.notes.Fail(errors.New("disk full"))
		if r := call(l.down, "later", `{"value":40}`); r.Status != 500 || !strings.Contains(string(r.Body), "disk full") {
			t.Errorf("%d %s", r.Status, r.Body)
		}
		l.notes.Fail(nil)
		l.err = gateway.ErrNoAnswer
		call(l.down, "later", `{"value":50}`)
		pass(time.Second / 2)
		l.notes.Fail(errors.New("disk full"))
		l.device.written, l.err = nil, nil
		pass(10 * time.Minute)
		if len(l.device.written) > 0 {
			t.Errorf("written without a note: %v", l.device.written)
		}
		l.notes.Fail(nil)
		pass(time.Minute)
		l.stop()
		if got := fmt.Sprint(l.device.written, l.told); got != "[boiler/setpoint=50] [later 200]" {
			t.Error(got)
		}
	})
}

func TestNoMoreWaitThanANoteHolds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLater(gateway.ErrNoAnswer)
		l.start()
		defer l.stop()
		for range mostWaiting {
			if r := call(l.down, "later", `{"value":40}`); r.Status != 202 {
				t.Fatalf("%d %s", r.Status, r.Body)
			}
		}
		if r := call(l.down, "later", `{"value":40}`); r.Status != 429 {
			t.Errorf("%d %s", r.Status, r.Body)
		}
		if size := len(l.notes.All()["waiting/boiler"]); size > 64<<10 {
			t.Errorf("a note of %d bytes", size)
		}
	})
}
