package buffer_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"go.etcd.io/bbolt"

	gateway "iothub-gateway"
	"iothub-gateway/buffer"
	"iothub-gateway/internal/testkit"
)

// plant is a queue directory that was closed: which sequences of which lane wait in it.
type plant struct {
	dir         string
	id          string
	acked, puts map[gateway.IdentityID]int
	files       int // generations
}

// makePlant fills a queue of several generations, with acknowledgements in the middle.
func makePlant(t testing.TB) plant {
	t.Helper()
	p := plant{dir: filepath.Join(t.TempDir(), "queue"), acked: map[gateway.IdentityID]int{}, puts: map[gateway.IdentityID]int{}}
	q, err := buffer.Open(buffer.Config{Dir: p.dir, GenerationBytes: 96 << 10})
	if err != nil {
		t.Fatal(err)
	}
	p.id = q.ID()
	stop := runQueue(t, q)
	for n := 1; n <= 300; n++ {
		var ts []gateway.Telemetry
		for i, id := range []gateway.IdentityID{"boiler", "line/drive", "pump"} {
			if n%(i+1) == 0 {
				p.puts[id]++
				ts = append(ts, large(id, p.puts[id]))
			}
		}
		put(t, q, ts...)
		if n%50 == 0 {
			p.acked["boiler"] = n / 5
			next(t, q.Lane("boiler"), 0, n/5-int(q.Stats().Lanes["boiler"].Acked))
			q.Lane("boiler").Ack(uint64(n / 5))
			testkit.Eventually(t, "a fifth is acknowledged", func() bool { return q.Stats().Lanes["boiler"].Acked == uint64(n/5) })
		}
	}
	stop()
	p.files = len(generations(p.dir))
	if p.files < 3 {
		t.Fatalf("only %d generations", p.files)
	}
	return p
}

// large is message n with a longer body.
func large(id gateway.IdentityID, n int) gateway.Telemetry {
	m := message(id, n)
	m.Body = fmt.Appendf(nil, `{"n":%d,"of":%q,"pad":"%0300d"}`, n, id, n)
	return m
}

func generations(dir string) []string {
	files, _ := filepath.Glob(filepath.Join(dir, "[0-9]*.db"))
	slices.Sort(files)
	return files
}

// copyPlant makes a copy to damage.
func (p plant) copy(t testing.TB) plant {
	t.Helper()
	p2 := p
	p2.dir = filepath.Join(t.TempDir(), "queue")
	if err := os.CopyFS(p2.dir, os.DirFS(p.dir)); err != nil {
		t.Fatal(err)
	}
	return p2
}

// told is what a queue delivered of a plant.
type told struct {
	entries, marked int
	newID           bool
}

// deliver opens the plant's queue, drains it and checks every entry: what was put, in order, without a
// hole, each sequence once, and no other; what is missing is marked. It returns the closed queue's health.
func (p plant) deliver(t testing.TB, check func(context.Context, string) (buffer.Report, error)) (told, buffer.Health) {
	t.Helper()
	var log bytes.Buffer
	q, err := buffer.Open(buffer.Config{Dir: p.dir, GenerationBytes: 96 << 10, Check: check, Log: zerolog.New(&log)})
	if err != nil {
		t.Fatal(err)
	}
	stop := runQueue(t, q)
	defer stop()
	result := told{newID: q.ID() != p.id}
	for id, puts := range p.puts {
		put(t, q, large(id, puts+1)) // collecting goes on
		result = p.lane(t, q, id, result)
	}
	health := q.Health()
	if len(health.Aside) > 0 && (health.State != "degraded" || !strings.Contains(health.Reason, health.Aside[0])) {
		t.Errorf("health: %+v", health)
	}
	if t.Failed() {
		t.Log(log.String())
	}
	return result, health
}

func (p plant) lane(t testing.TB, q *buffer.Queue, id gateway.IdentityID, result told) told {
	t.Helper()
	after, want := uint64(0), uint64(p.acked[id]+1)
	fresh := false // the entry that was put last has come
	for !fresh {
		for _, e := range next(t, q.Lane(id), after, 1) {
			after = e.Seq
			switch {
			case e.First > want || e.Seq < want && e.Queue == p.id && e.Gap == nil && e.Seq > uint64(p.acked[id]):
				t.Fatalf("%s: %s comes where %d is expected", id, e.ID(), want)
			case e.Gap != nil:
				result.marked += int(e.Seq - e.First + 1)
			case strings.Contains(string(e.Telemetry.Body), fmt.Sprintf(`{"n":%d,`, p.puts[id]+1)):
				fresh = true
				if (e.Queue == p.id) == result.newID {
					t.Fatalf("%s: the new entry is %s in queue %s", id, e.ID(), q.ID())
				}
			default:
				if want := large(id, int(e.Seq)); e.Queue != p.id || string(e.Telemetry.Body) != string(want.Body) || !e.Telemetry.Created.Equal(want.Created) {
					t.Fatalf("%s: %s is %.60s", id, e.ID(), e.Telemetry.Body)
				}
				if int(e.Seq) > p.acked[id] {
					result.entries++
				}
			}
			want = max(want, e.Seq+1)
		}
	}
	return result
}

func (p plant) waiting() (n int) {
	for id, puts := range p.puts {
		n += puts - p.acked[id]
	}
	return n
}

// pageOf finds a page in use by its kind, the elements that it has at least, and what it holds.
func pageOf(t testing.TB, data []byte, flags, count uint16, holds string) int {
	t.Helper()
	used := buffer.ReachablePages(data)
	for at := len(data) - 4096; at >= 8192; at -= 4096 {
		if used[at/4096] && binary.NativeEndian.Uint16(data[at+8:]) == flags && binary.NativeEndian.Uint16(data[at+10:]) >= count && strings.Contains(string(data[at:at+4096]), holds) {
			return at
		}
	}
	t.Fatal("no such page")
	return 0
}

// damages are what disks, file systems and people do to a file.
func damages(t testing.TB) map[string]func(b []byte) []byte {
	leaf := func(b []byte) int { return pageOf(t, b, 2, 8, `"of":"boiler"`) }
	return map[string]func(b []byte) []byte{
		"a byte of a record":      func(b []byte) []byte { b[leaf(b)+2000] ^= 0x10; return b },
		"a byte of a page header": func(b []byte) []byte { b[leaf(b)+9] ^= 1; return b },
		"a byte of a meta page":   func(b []byte) []byte { b[40] ^= 1; return b },
		"a byte of the other one": func(b []byte) []byte { b[4096+72] ^= 1; return b },
		"a byte of a branch page": func(b []byte) []byte { b[pageOf(t, b, 1, 2, "")+24] ^= 1; return b },
		"half a page is torn":     func(b []byte) []byte { at := leaf(b); clear(b[at+2048 : at+4096]); return b },
		"a page of another place": func(b []byte) []byte { copy(b[leaf(b):], b[pageOf(t, b, 1, 2, ""):][:4096]); return b },
		"cut in the middle":       func(b []byte) []byte { return b[:len(b)/2] },
		"cut to a byte":           func(b []byte) []byte { return b[:1] },
		"zeroes at the beginning": func(b []byte) []byte { clear(b[:16<<10]); return b },
		"zeroes at the end":       func(b []byte) []byte { clear(b[len(b)/2:]); return b },
		"another magic number":    func(b []byte) []byte { b[16] ^= 0xFF; b[4096+16] ^= 0xFF; return b },
		"a text":                  func([]byte) []byte { return bytes.Repeat([]byte("devices:\n"), 1000) },
	}
}

// Of the oldest file, of one in the middle and of the newest: what is whole is delivered as it was
// put, the rest is marked, the file is set aside as it is, and collecting goes on.
func TestWhatIsWholeInADamagedFileIsDelivered(t *testing.T) {
	good := makePlant(t)
	for name, change := range damages(t) {
		for _, which := range []int{0, 1, good.files - 1} {
			t.Run(fmt.Sprintf("%s, file %d", name, which+1), func(t *testing.T) {
				p := good.copy(t)
				path := generations(p.dir)[which]
				content, err := os.ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				content = change(content)
				if err := os.WriteFile(path, content, 0o600); err != nil {
					t.Fatal(err)
				}
				// After a crash, so that every file is looked at.
				if err := os.WriteFile(filepath.Join(p.dir, "running"), nil, 0o600); err != nil {
					t.Fatal(err)
				}
				result, health := p.deliver(t, nil)
				if len(health.Aside) != 1 || !strings.HasPrefix(health.Aside[0], path+".damaged-") {
					t.Fatalf("health: %+v", health)
				}
				if kept, err := os.ReadFile(health.Aside[0]); err != nil || !bytes.Equal(kept, content) {
					t.Errorf("the file that was set aside is not the damaged one (%v)", err)
				}
				newest := which == good.files-1
				if result.newID != newest {
					t.Errorf("a new queue id: %v", result.newID)
				}
				if lost := p.waiting() - result.entries; lost > 0 && result.marked == 0 || !newest && lost != result.marked {
					t.Errorf("%d of %d entries came, %d are marked", result.entries, p.waiting(), result.marked)
				}
				again, health := p.deliverAgain(t, result)
				if len(health.Aside) != 1 || again.marked != result.marked {
					t.Errorf("after another start: %+v, then %+v, %+v", result, again, health)
				}
			})
		}
	}
}

// deliverAgain opens the queue once more; nobody has acknowledged anything.
func (p plant) deliverAgain(t testing.TB, before told) (told, buffer.Health) {
	t.Helper()
	q, err := buffer.Open(buffer.Config{Dir: p.dir, GenerationBytes: 96 << 10})
	if err != nil {
		t.Fatal(err)
	}
	stop := runQueue(t, q)
	defer stop()
	result := told{newID: before.newID}
	for id := range p.puts {
		result = p.lane(t, q, id, result)
	}
	return result, q.Health()
}

func TestADamagedFileIsNoticedWithoutACrashBefore(t *testing.T) {
	good := makePlant(t)
	for name, which := range map[string]int{"sealed": 0, "newest": good.files - 1} {
		t.Run(name, func(t *testing.T) {
			p := good.copy(t)
			path := generations(p.dir)[which]
			if err := os.Truncate(path, 20<<10); err != nil {
				t.Fatal(err)
			}
			if _, health := p.deliver(t, nil); len(health.Aside) != 1 {
				t.Errorf("health: %+v", health)
			}
		})
	}
}

// In the only file of a queue the pages with the identities' names are few: nobody would know whose
// all the other records are.
func TestTheNamesOfIdentitiesSurviveTheirPages(t *testing.T) {
	dir := queuePath(t)
	q, stop := start(t, dir)
	var ts []gateway.Telemetry
	for i := range 100 {
		ts = append(ts, message(gateway.IdentityID(fmt.Sprintf("line %d/\"drive\" é", i)), 1))
	}
	put(t, q, ts[:50]...)
	put(t, q, ts[50:]...)
	testkit.Eventually(t, "the names are written", func() bool {
		names, err := os.ReadFile(filepath.Join(dir, "identities"))
		return err == nil && bytes.Count(names, []byte("\n")) == 100
	})
	stop()
	data, err := os.ReadFile(generation(dir, 1))
	if err != nil {
		t.Fatal(err)
	}
	for at := 0; at < len(data); at += 4096 {
		if page := data[at : at+4096]; bytes.Contains(page, []byte("drive")) && !bytes.Contains(page, []byte(`{"n":1}`)) {
			clear(page)
		}
	}
	if err := os.WriteFile(generation(dir, 1), data, 0o600); err != nil {
		t.Fatal(err)
	}
	q, _ = start(t, dir)
	if h := q.Health(); len(h.Aside) != 1 {
		t.Fatalf("%+v", h)
	}
	for _, m := range ts {
		if e := next(t, q.Lane(m.Identity), 0, 1)[0]; string(e.Telemetry.Body) != `{"n":1}` {
			t.Errorf("%s: %+v", m.Identity, e)
		}
	}
}

func TestADirectoryInThePlaceOfAFileIsSetAside(t *testing.T) {
	good := makePlant(t)
	for _, which := range []int{0, good.files - 1} {
		p := good.copy(t)
		path := generations(p.dir)[which]
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		if err := os.Mkdir(path, 0o700); err != nil {
			t.Fatal(err)
		}
		result, health := p.deliver(t, nil)
		if len(health.Aside) != 1 || result.marked == 0 {
			t.Errorf("%+v %+v", result, health)
		}
	}
}

func TestAFileOfANewerProgramIsSetAsideUntouched(t *testing.T) {
	good := makePlant(t)
	for _, which := range []int{0, good.files - 1} {
		p := good.copy(t)
		path := generations(p.dir)[which]
		editFile(t, path, func(tx *bbolt.Tx) error {
			key := []byte("format")
			return tx.Bucket([]byte("meta")).Put(key, buffer.SealValue("meta", key, []byte{0, 0, 0, 7}))
		})
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		result, health := p.deliver(t, nil)
		if len(health.Aside) != 1 || !strings.HasPrefix(health.Aside[0], path+".newer-format-7-") || result.marked == 0 {
			t.Fatalf("%+v %+v", result, health)
		}
		if kept, err := os.ReadFile(health.Aside[0]); err != nil || !bytes.Equal(kept, content) {
			t.Errorf("it was changed (%v)", err)
		}
	}
}

func TestAnotherProgramsFileIsSetAside(t *testing.T) {
	p := makePlant(t)
	path := filepath.Join(p.dir, "00000099.db")
	db, err := bbolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	result, health := p.deliver(t, nil)
	if len(health.Aside) != 1 || result.entries != p.waiting() {
		t.Errorf("%+v %+v", result, health)
	}
}

func editFile(t testing.TB, path string, change func(*bbolt.Tx) error) {
	t.Helper()
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: time.Second, NoFreelistSync: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Update(change); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}
