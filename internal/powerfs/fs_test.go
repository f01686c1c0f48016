package powerfs_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"iothub-gateway/internal/powerfs"
)

// TestMain also is the process that maps a file.
func TestMain(m *testing.M) {
	if path := os.Getenv("POWERFS_TEST_MAP"); path != "" {
		if err := mapAndWrite(path); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func mount(t *testing.T, im powerfs.Image) (*powerfs.FS, string) {
	t.Helper()
	at := t.TempDir()
	f, err := powerfs.Mount(at, im)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Unmount(); err != nil {
			t.Error(err)
		}
	})
	return f, at
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// kinds are the operations of a record, as text.
func kinds(log *powerfs.Log, from int) (all []string) {
	for _, op := range log.Ops[from:] {
		all = append(all, op.Kind.String())
	}
	return all
}

func TestEverythingThatIsDoneIsRecordedInOrder(t *testing.T) {
	f, at := mount(t, powerfs.Image{Dirs: []string{"d"}, Files: map[string][]byte{"d/old": []byte("before")}})
	born := len(f.Log("").Ops)
	control, err := powerfs.OpenControl(at)
	must(t, err)
	file, err := os.OpenFile(filepath.Join(at, "a"), os.O_RDWR|os.O_CREATE, 0o600)
	must(t, err)
	_, err = file.WriteAt([]byte("hello"), 3)
	must(t, err, file.Sync(), control.Note("half"), file.Truncate(4), file.Close())
	must(t, os.Rename(filepath.Join(at, "a"), filepath.Join(at, "d/b")))
	dir, err := os.Open(filepath.Join(at, "d"))
	must(t, err, dir.Sync(), dir.Close(), os.Mkdir(filepath.Join(at, "e"), 0o700), os.Remove(filepath.Join(at, "d/old")), control.Close())
	want := []string{"create", "write", "fsync", "note", "truncate", "rename", "fsync", "mkdir", "remove"}
	if got := kinds(f.Log(""), born); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("recorded %v, want %v", got, want)
	}
	if content, err := os.ReadFile(filepath.Join(at, "d/b")); err != nil || string(content) != "\x00\x00\x00h" {
		t.Errorf("the file holds %q, %v", content, err)
	}
	if _, err := os.Stat(filepath.Join(at, "d/old")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the removed file: %v", err)
	}
}

func TestAFileThatIsReplacedGoesOnForThoseWhoHaveItOpen(t *testing.T) {
	_, at := mount(t, powerfs.Image{Files: map[string][]byte{"a": []byte("old"), "b": []byte("new")}})
	file, err := os.Open(filepath.Join(at, "a"))
	must(t, err, os.Rename(filepath.Join(at, "b"), filepath.Join(at, "a")))
	old := make([]byte, 3)
	_, err = file.ReadAt(old, 0)
	must(t, err, file.Close())
	content, err := os.ReadFile(filepath.Join(at, "a"))
	if err != nil || string(old) != "old" || string(content) != "new" {
		t.Errorf("open: %q, by name: %q %v", old, content, err)
	}
}

func TestTheNthOperationFailsAsAskedAndTheOthersDoNot(t *testing.T) {
	f, at := mount(t, powerfs.Image{Files: map[string][]byte{"a": nil}})
	control, err := powerfs.OpenControl(at)
	must(t, err)
	file, err := os.OpenFile(filepath.Join(at, "a"), os.O_RDWR, 0)
	must(t, err)
	for _, test := range []struct {
		kind powerfs.Kind
		do   func() error
	}{
		{powerfs.Write, func() error { _, err := file.WriteAt([]byte("x"), 0); return err }},
		{powerfs.Fsync, file.Sync},
		{powerfs.Truncate, func() error { return file.Truncate(10) }},
		{powerfs.Rename, func() error { return os.Rename(filepath.Join(at, "a"), filepath.Join(at, "a2")) }},
	} {
		must(t, control.Fail(powerfs.Fault{Kind: test.kind, After: 1, Count: 1, Errno: syscall.EIO}))
		if err := test.do(); !errors.Is(err, syscall.EIO) {
			t.Errorf("%v: %v, want EIO", test.kind, err)
		}
		if err := test.do(); err != nil {
			t.Errorf("the %v after it: %v", test.kind, err)
		}
		if n, err := control.Fired(); n != 1 || err != nil {
			t.Errorf("%v: fired %d times, %v", test.kind, n, err)
		}
	}
	must(t, control.Fail(powerfs.Fault{Kind: powerfs.Write, After: 2, Errno: syscall.ENOSPC}))
	for i := range 4 {
		if _, err := file.WriteAt([]byte("x"), 0); errors.Is(err, syscall.ENOSPC) != (i > 0) {
			t.Errorf("write %d on a disk that is full after one: %v", i+1, err)
		}
	}
	must(t, control.Fail(powerfs.Fault{}), file.Sync(), file.Close(), control.Close())
	last := f.Log("").Ops
	if got := last[len(last)-1].Kind; got != powerfs.Fsync {
		t.Errorf("the record ends with %v", got)
	}
}

func TestAMappedFileShowsWhatWasWrittenToIt(t *testing.T) {
	_, at := mount(t, powerfs.Image{Files: map[string][]byte{"a": bytes.Repeat([]byte{'-'}, 3*4096)}})
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "POWERFS_TEST_MAP="+filepath.Join(at, "a"))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

// mapAndWrite maps a file and looks whether writes, also those of a second descriptor, show there.
func mapAndWrite(path string) error {
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	view, err := syscall.Mmap(int(file.Fd()), 0, 4*4096, syscall.PROT_READ, syscall.MAP_SHARED)
	if err != nil {
		return err
	}
	if view[4096] != '-' {
		return fmt.Errorf("at first %q", view[4096])
	}
	for i, at := range []int64{4096, 8192, 3 * 4096} { // the last one makes the file longer
		second, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			return err
		}
		if _, err := second.WriteAt([]byte{byte('a' + i)}, at); err != nil {
			return err
		}
		if err := errors.Join(second.Sync(), second.Close()); err != nil {
			return err
		}
		if view[at] != byte('a'+i) {
			return fmt.Errorf("after the write at %d the map shows %q", at, view[at])
		}
	}
	return errors.Join(syscall.Munmap(view), file.Close())
}
