package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	gateway "iothub-gateway"
	"iothub-gateway/buffer"
	"iothub-gateway/internal/control"
	"iothub-gateway/internal/testkit"
)

// The commands start this program again to read a file of the queue.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == checkFileWord {
		os.Exit(execute(context.Background(), os.Args[1:], streams{out: os.Stdout, err: os.Stderr, in: os.Stdin}))
	}
	os.Exit(m.Run())
}

// shelf is a queue on disk that the commands look into, with or without a gateway that runs on it.
type shelf struct {
	t              *testing.T
	state, runtime string
}

var noon = time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)

// newShelf makes a queue of five messages of boiler and two of press, one of which, a third, was
// refused by the hub.
func newShelf(t *testing.T, running bool) *shelf {
	t.Helper()
	s := &shelf{t: t, state: t.TempDir(), runtime: t.TempDir()}
	dir := filepath.Join(s.state, queueName)
	q, err := buffer.Open(buffer.Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 2)
	go func() { ended <- q.Run(ctx) }()
	s.fill(q)
	stop := func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	if !running {
		stop()
		if err := q.Close(); err != nil {
			t.Fatal(err)
		}
		return s
	}
	mux := http.NewServeMux()
	serveQueue(mux, accessTo(q, dir))
	listener, err := control.Listen(filepath.Join(s.runtime, control.SocketName))
	if err != nil {
		t.Fatal(err)
	}
	serving, end := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- control.Serve(serving, listener, mux) }()
	t.Cleanup(func() {
		end()
		if err := <-served; err != nil {
			t.Error(err)
		}
		stop()
		if err := q.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func (s *shelf) fill(q *buffer.Queue) {
	s.t.Helper()
	var all []gateway.Telemetry
	for i := range 5 {
		all = append(all, gateway.Telemetry{
			Identity: "boiler", Body: fmt.Appendf(nil, `{"n":%d}`, i+1), Created: noon.Add(time.Duration(i) * time.Second),
			Properties: []gateway.Property{{Name: "site", Value: "plant7"}},
		})
	}
	for i := range 3 {
		all = append(all, gateway.Telemetry{Identity: "press", Body: fmt.Appendf(nil, `{"p":%d}`, i+1), Created: noon})
	}
	if err := q.Put(s.t.Context(), all...); err != nil {
		s.t.Fatal(err)
	}
	lane := q.Lane("press")
	if _, err := lane.Next(s.t.Context(), 0, 1); err != nil {
		s.t.Fatal(err)
	}
	if err := lane.Dead(s.t.Context(), 1, "the hub closes the connection on it"); err != nil {
		s.t.Fatal(err)
	}
	gap, err := lane.Next(s.t.Context(), 0, 1)
	if err != nil || gap[0].Gap == nil {
		s.t.Fatalf("%+v, %v", gap, err)
	}
	lane.Ack(gap[0].Seq)
	testkit.Eventually(s.t, "the gap has left", func() bool { return q.Stats().Lanes["press"].Entries == 2 })
}

// run runs one queue command.
func (s *shelf) run(args ...string) (out, errs string, code int) {
	s.t.Helper()
	var stdout, stderr bytes.Buffer
	args = append([]string{"queue", "--state-dir", s.state, "--runtime-dir", s.runtime}, args...)
	code = execute(s.t.Context(), args, streams{out: &stdout, err: &stderr, in: strings.NewReader("yes\n")})
	return stdout.String(), stderr.String(), code
}

// good runs a command that must succeed and say nothing beside its output.
func (s *shelf) good(args ...string) string {
	s.t.Helper()
	out, errs, code := s.run(args...)
	if code != exitOK || errs != "" {
		s.t.Fatalf("%v: exit code %d\n%s%s", args, code, out, errs)
	}
	return out
}

// jsonOf decodes the output of a command.
func jsonOf[T any](t *testing.T, text string) (v T) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	return v
}

// compact is JSON without the blanks that make it readable.
func compact(t *testing.T, text []byte) string {
	t.Helper()
	var b bytes.Buffer
	if err := json.Compact(&b, text); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// bothWays runs a test with and without a running gateway.
func bothWays(t *testing.T, f func(t *testing.T, s *shelf)) {
	for name, running := range map[string]bool{"running": true, "stopped": false} {
		t.Run(name, func(t *testing.T) { f(t, newShelf(t, running)) })
	}
}

func TestListShowsEveryLane(t *testing.T) {
	bothWays(t, func(t *testing.T, s *shelf) {
		page := jsonOf[control.QueuePage](t, s.good("list", "--json"))
		if page.Entries != 7 || page.State != queueWorking || page.ID == "" || page.Files < 1 || page.Size < 4096 || len(page.Lanes) != 2 {
			t.Errorf("%+v", page)
		}
		boiler := page.Lanes[0]
		if boiler.Identity != "boiler" || boiler.Entries != 5 || boiler.Bytes < 5*8 || !boiler.Oldest.Equal(noon) {
			t.Errorf("%+v", boiler)
		}
		table := s.good("list")
		for _, want := range []string{"7 waiting", "IDENTITY", "boiler", "press"} {
			if !strings.Contains(table, want) {
				t.Errorf("no %q in\n%s", want, table)
			}
		}
	})
}

func TestShowListsTheNextMessagesOfOneIdentityInOrder(t *testing.T) {
	bothWays(t, func(t *testing.T, s *shelf) {
		var bodies []string
		for line := range strings.Lines(s.good("show", "boiler", "--after", "1", "--limit", "3", "--json")) {
			e := jsonOf[control.QueueEntry](t, line)
			if e.Identity != "boiler" || !strings.HasSuffix(e.ID, fmt.Sprintf("-%d", e.Last)) || e.Properties["site"] != "plant7" {
				t.Errorf("%+v", e)
			}
			bodies = append(bodies, string(e.Body))
		}
		if diff := cmp.Diff([]string{`{"n":2}`, `{"n":3}`, `{"n":4}`}, bodies); diff != "" {
			t.Errorf("(-want +got)\n%s", diff)
		}
		if table := s.good("show", "boiler", "--limit", "2"); !strings.Contains(table, `{"n":2}`) || strings.Contains(table, `{"n":3}`) || !strings.Contains(table, "--after 2") {
			t.Error(table)
		}
		_, errs, code := s.run("show", "boilr")
		if code != exitFailed || !strings.Contains(errs, "it has boiler, press") {
			t.Errorf("exit code %d: %s", code, errs)
		}
		if _, _, code := s.run("show", "boiler", "--limit", "0"); code != exitUsage {
			t.Errorf("--limit 0: exit code %d", code)
		}
	})
}

func TestExportWritesEverythingOrNothing(t *testing.T) {
	bothWays(t, func(t *testing.T, s *shelf) {
		all := s.good("export")
		if n := strings.Count(all, "\n"); n != 7 {
			t.Errorf("%d lines\n%s", n, all)
		}
		path := filepath.Join(t.TempDir(), "press.jsonl")
		s.good("export", "press", "--output", path)
		text, err := os.ReadFile(path)
		if err != nil || strings.Count(string(text), "\n") != 2 || !strings.HasSuffix(all, string(text)) {
			t.Errorf("%v\n%s", err, text)
		}
		if _, errs, code := s.run("export", "nobody", "--output", path+"2"); code != exitFailed {
			t.Errorf("exit code %d: %s", code, errs)
		}
		if left, err := os.ReadDir(filepath.Dir(path)); err != nil || len(left) != 1 {
			t.Errorf("left behind: %v, %v", left, err)
		}
	})
}

func TestDropNeedsAWordAndLeavesAGap(t *testing.T) {
	bothWays(t, func(t *testing.T, s *shelf) {
		out, errs, code := s.run("drop", "boiler")
		if code != exitUsage || !strings.Contains(errs, "5 messages of boiler") || !strings.Contains(errs, "--yes") {
			t.Errorf("exit code %d\n%s%s", code, out, errs)
		}
		if page := jsonOf[control.QueuePage](t, s.good("list", "--json")); page.Entries != 7 {
			t.Errorf("without a word: %+v", page)
		}
		out, _, code = s.run("drop", "press", "--yes", "--json")
		done := jsonOf[struct{ Dropped int64 }](t, out)
		if (code == exitOK) != (done.Dropped > 0) {
			t.Errorf("exit code %d with %d dropped", code, done.Dropped)
		}
		page := jsonOf[control.QueuePage](t, s.good("list", "--json"))
		if press := page.Lanes[1]; press.Entries+done.Dropped < 2 {
			t.Errorf("%d dropped, left %+v", done.Dropped, press)
		}
	})
}

func TestDeadLettersAreShownSentAgainAndForgotten(t *testing.T) {
	bothWays(t, func(t *testing.T, s *shelf) {
		letters := jsonOf[[]control.DeadLetter](t, s.good("dead", "list", "--json"))
		if len(letters) != 1 || letters[0].Identity != "press" || compact(t, letters[0].Body) != `{"p":1}` || letters[0].Reason != "the hub closes the connection on it" {
			t.Fatalf("%+v", letters)
		}
		id := letters[0].ID
		if l := jsonOf[control.DeadLetter](t, s.good("dead", "show", id)); l.ID != id {
			t.Errorf("%+v", l)
		}
		if table := s.good("dead", "list"); !strings.Contains(table, id) {
			t.Error(table)
		}
		if _, errs, code := s.run("dead", "replay", id, "nothing"); code != exitFailed || !strings.Contains(errs, "no dead letter nothing") {
			t.Errorf("exit code %d: %s", code, errs)
		}
		s.good("dead", "replay", id)
		if left := s.good("dead", "list"); !strings.Contains(left, "no dead letters") {
			t.Error(left)
		}
		lines := strings.Split(strings.TrimSpace(s.good("show", "press", "--json")), "\n")
		if e := jsonOf[control.QueueEntry](t, lines[len(lines)-1]); string(e.Body) != `{"p":1}` || e.Last != 4 || !e.Created.Equal(noon) {
			t.Errorf("%+v", e)
		}
	})
}

func TestDroppingADeadLetterAsksFirst(t *testing.T) {
	bothWays(t, func(t *testing.T, s *shelf) {
		id := jsonOf[[]control.DeadLetter](t, s.good("dead", "list", "--json"))[0].ID
		if _, errs, code := s.run("dead", "drop", id); code != exitUsage || !strings.Contains(errs, "--yes") {
			t.Errorf("exit code %d: %s", code, errs)
		}
		s.good("dead", "drop", id, "--yes")
		if letters := jsonOf[[]control.DeadLetter](t, s.good("dead", "list", "--json")); len(letters) != 0 {
			t.Errorf("%+v", letters)
		}
	})
}

func TestVerifySaysThatASoundQueueIsSound(t *testing.T) {
	bothWays(t, func(t *testing.T, s *shelf) {
		found := jsonOf[[]verdict](t, s.good("verify", "--json"))
		var records int64
		for _, v := range found {
			records += v.Records
			if v.Trouble != "" {
				t.Errorf("%+v", v)
			}
		}
		if records < 7 {
			t.Errorf("%+v", found)
		}
		if table := s.good("verify"); !strings.Contains(table, "sound") {
			t.Error(table)
		}
	})
}

func TestVerifyNamesTheFileThatIsDamagedAndRepairSavesTheRest(t *testing.T) {
	s := newShelf(t, false)
	path := filepath.Join(s.state, queueName, "00000001.db")
	file, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	// Pages that are not in use any more hold it as well.
	file = bytes.ReplaceAll(file, []byte(`{"n":3}`), []byte(`{"n":9}`))
	if err := os.WriteFile(path, file, 0o600); err != nil {
		t.Fatal(err)
	}
	out, errs, code := s.run("verify")
	if code != exitFailed || !strings.Contains(out, "00000001.db") || !strings.Contains(errs, "repair") {
		t.Fatalf("exit code %d\n%s%s", code, out, errs)
	}
	s.run("repair")
	all := s.good("export", "boiler")
	for _, n := range []int{1, 2, 4, 5} {
		if !strings.Contains(all, fmt.Sprintf(`{"n":%d}`, n)) {
			t.Errorf("message %d is not there any more\n%s", n, all)
		}
	}
	if strings.Contains(all, `{"n":9}`) {
		t.Errorf("a wrong message is there\n%s", all)
	}
	out, _, code = s.run("list")
	if code != exitFailed || !strings.Contains(out, "damaged") {
		t.Errorf("exit code %d\n%s", code, out)
	}
}

func TestWhereThereIsNoQueueTheCommandSaysWhichFlagToUse(t *testing.T) {
	s := &shelf{t: t, state: t.TempDir(), runtime: t.TempDir()}
	for _, args := range [][]string{{"list"}, {"show", "boiler"}, {"export"}, {"verify"}, {"dead", "list"}, {"drop", "boiler", "--yes"}} {
		if out, errs, code := s.run(args...); code != exitFailed || out != "" || !strings.Contains(errs, "--state-dir") {
			t.Errorf("%v: exit code %d\n%s%s", args, code, out, errs)
		}
	}
	if left, err := os.ReadDir(s.state); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestAQueueThatAGatewayHasIsLeftAlone(t *testing.T) {
	s := newShelf(t, true)
	s.runtime = t.TempDir() // the wrong one: nobody answers there
	for _, args := range [][]string{{"list"}, {"drop", "boiler", "--yes"}, {"verify"}, {"repair"}} {
		if _, errs, code := s.run(args...); code != exitFailed || !strings.Contains(errs, "--runtime-dir") {
			t.Errorf("%v: exit code %d: %s", args, code, errs)
		}
	}
}

func TestWhatRootMakesBelongsToTheOwnerOfTheDirectory(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "queue", "file")
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	owner := os.Getuid()
	if owner == 0 {
		owner = 12345
		if err := os.Chown(dir, owner, owner); err != nil {
			t.Fatal(err)
		}
	}
	if err := leaveToOwner(dir); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprintf("%+v", info.Sys()); !strings.Contains(got, fmt.Sprintf("Uid:%d ", owner)) {
		t.Errorf("it belongs to another: %s", got)
	}
}
