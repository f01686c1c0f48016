package buffer

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rs/zerolog"

	gateway "iothub-gateway"
)

func letterOf(n int) DeadLetter {
	return DeadLetter{
		ID: fmt.Sprint("3b6a826c66c43d66-", n), Reason: "the hub closes the connection on it", Time: time.Unix(1_700_000_000, 5).UTC(),
		Telemetry: gateway.Telemetry{
			Identity: "boiler/drive", Body: fmt.Appendf(nil, `{"n":%d}`, n), Created: time.Unix(1_600_000_000+int64(n), 7).UTC(),
			Properties: []gateway.Property{{Name: "site", Value: "north"}},
		},
	}
}

func openDead(t *testing.T, path string) *deadStore {
	t.Helper()
	d, err := openDeadLetters(path, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.store.close() })
	return d
}

func addLetter(t *testing.T, d *deadStore, letter DeadLetter) {
	t.Helper()
	if err := d.add(t.Context(), letter); err != nil {
		t.Fatal(err)
	}
}

func TestADeadLetterIsThereOnceUntilItIsForgotten(t *testing.T) {
	path := filepath.Join(t.TempDir(), "dead.db")
	d := openDead(t, path)
	for _, n := range []int{3, 1, 2, 1} {
		addLetter(t, d, letterOf(n))
	}
	if err := errors.Join(d.remove(letterOf(3).ID), d.store.close()); err != nil {
		t.Fatal(err)
	}
	d = openDead(t, path)
	addLetter(t, d, letterOf(1)) // the crash came before the queue knew
	got, err := d.list()
	if diff := cmp.Diff([]DeadLetter{letterOf(1), letterOf(2)}, got); diff != "" || err != nil {
		t.Errorf("%v %s", err, diff)
	}
	one, err := d.get(letterOf(2).ID)
	if diff := cmp.Diff(letterOf(2), one); diff != "" || err != nil {
		t.Errorf("%v %s", err, diff)
	}
	if _, err := d.get("x"); err == nil || d.remove("x") == nil {
		t.Error("one that is not there was found")
	}
}

func TestTheOldestDeadLettersMakeRoomAndAreCounted(t *testing.T) {
	path := filepath.Join(t.TempDir(), "dead.db")
	d := openDead(t, path)
	for n := range 270 {
		letter := letterOf(n)
		letter.Telemetry.Body = make([]byte, 250_000)
		addLetter(t, d, letter)
	}
	most := maxDeadBytes / 250_000
	check := func() {
		t.Helper()
		letters, err := d.list()
		if err != nil || len(letters) > most || len(letters) < most-5 || letters[len(letters)-1].ID != letterOf(269).ID || int(d.lost) != 270-len(letters) {
			t.Errorf("%d letters, %d lost, %v", len(letters), d.lost, err)
		}
	}
	check()
	_ = d.store.close()
	d = openDead(t, path)
	check()
	d.bytes, d.next = 0, d.next+maxDeadLetters // as if they were small and many
	if out := d.makeRoom(1); len(out) != 0 {
		t.Errorf("%d have to go", len(out))
	}
	for n := range maxDeadLetters - len(d.order) {
		d.added(fmt.Sprint(n), d.next, 1)
	}
	if out := d.makeRoom(1); len(out) != 1 || out[0] != d.first {
		t.Errorf("%d have to go: %v", len(out), out)
	}
}

func TestWholeLettersOfADamagedFileGoOn(t *testing.T) {
	path := filepath.Join(t.TempDir(), "dead.db")
	d := openDead(t, path)
	for n := range 100 {
		addLetter(t, d, letterOf(n))
	}
	_ = d.store.close()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	clear(b[:2*4096]) // no tree any more
	for at := 0; ; {  // and letter 42 is not what it was, in no copy
		i := bytes.Index(b[at:], []byte(`{"n":42}`))
		if i < 0 {
			break
		}
		b[at+i+5] = '9'
		at += i + 1
	}
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	d = openDead(t, path)
	letters, err := d.list()
	if err != nil || len(letters) != 99 || d.store.state() == nil {
		t.Fatalf("%d letters, %v, %v", len(letters), err, d.store.state())
	}
	for _, letter := range letters {
		var n int
		if _, err := fmt.Sscanf(letter.ID, "3b6a826c66c43d66-%d", &n); err != nil || n == 42 || !cmp.Equal(letter, letterOf(n)) {
			t.Errorf("%v: %+v", err, letter)
		}
	}
	addLetter(t, d, letterOf(42))
}
