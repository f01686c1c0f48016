package powerfs_test

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"iothub-gateway/internal/powerfs"
)

// The numbers of files and directories in these records.
const (
	file  = 2
	other = 3
	dir   = 4
)

func create(child uint64, name string) powerfs.Op {
	return powerfs.Op{Kind: powerfs.Create, Node: powerfs.Root, Child: child, Name: name}
}

func write(node uint64, offset int64, data string) powerfs.Op {
	return powerfs.Op{Kind: powerfs.Write, Node: node, Offset: offset, Data: []byte(data)}
}

func fsync(node uint64) powerfs.Op { return powerfs.Op{Kind: powerfs.Fsync, Node: node} }

func mv(name, to string) powerfs.Op {
	return powerfs.Op{Kind: powerfs.Rename, Node: powerfs.Root, Child: file, Name: name, To: powerfs.Root, ToName: to}
}

// states are the different contents that name has in the images after ops: "-" stands for absent.
func states(ops []powerfs.Op, name string) []string {
	player := powerfs.NewPlayer(&powerfs.Log{Ops: ops})
	player.Advance(len(ops))
	var all []string
	for seed := range uint64(300) {
		content, found := player.Image(rand.New(rand.NewPCG(seed, 1))).Files[name]
		if !found {
			content = []byte("-")
		}
		all = append(all, string(content))
	}
	slices.Sort(all)
	return slices.Compact(all)
}

func TestAnImageHoldsWhatWasFlushedAndAnyPartOfTheRest(t *testing.T) {
	made := []powerfs.Op{create(file, "a"), fsync(powerfs.Root)}
	failed := powerfs.Op{Kind: powerfs.FsyncFailed, Node: file}
	gone := powerfs.Op{Kind: powerfs.Remove, Node: powerfs.Root, Name: "a", Child: file}
	truncate := powerfs.Op{Kind: powerfs.Truncate, Node: file, Offset: 1}
	for _, test := range []struct {
		promise string
		ops     []powerfs.Op
		want    []string
	}{
		{"a write may be lost", append(made, write(file, 0, "x")), []string{"", "x"}},
		{"a flushed write is there", append(made, write(file, 0, "x"), fsync(file)), []string{"x"}},
		{"the flush of another file helps nothing", append(made, write(file, 0, "x"), create(other, "b"), fsync(other)), []string{"", "x"}},
		{"writes are reordered", append(made, write(file, 0, "x"), write(file, 1, "y")), []string{"", "\x00y", "x", "xy"}},
		{"a truncation may be lost", append(made, write(file, 0, "xy"), fsync(file), truncate), []string{"x", "xy"}},
		{"the flush of a file does not keep its name", []powerfs.Op{create(file, "a"), write(file, 0, "x"), fsync(file)}, []string{"-", "x"}},
		{"the flush of a directory does not keep contents", []powerfs.Op{create(file, "a"), write(file, 0, "x"), fsync(powerfs.Root)}, []string{"", "x"}},
		{"a removal may be lost", append(made, gone), []string{"", "-"}},
		{"a flushed removal stays", append(made, gone, fsync(powerfs.Root)), []string{"-"}},
		{"a failed flush may be no flush for ever", append(made, write(file, 0, "x"), failed, write(file, 1, "y"), fsync(file)), []string{"\x00y", "xy"}},
		{"sync keeps everything", []powerfs.Op{create(file, "a"), write(file, 0, "x"), {Kind: powerfs.Sync}}, []string{"x"}},
	} {
		if got := states(test.ops, "a"); !slices.Equal(got, test.want) {
			t.Errorf("%s: %q, want %q", test.promise, got, test.want)
		}
	}
}

func TestARenameHappensWholeOrNotAtAll(t *testing.T) {
	ops := []powerfs.Op{create(file, "new"), create(other, "a"), write(file, 0, "x"), write(other, 0, "y"), {Kind: powerfs.Sync}, mv("new", "a")}
	player := powerfs.NewPlayer(&powerfs.Log{Ops: ops})
	player.Advance(len(ops))
	seen := map[string]int{}
	for seed := range uint64(100) {
		files := player.Image(rand.New(rand.NewPCG(seed, 1))).Files
		seen[string(files["a"])+"|"+string(files["new"])]++
	}
	if len(seen) != 2 || seen["y|x"] == 0 || seen["x|"] == 0 {
		t.Errorf("images %v", seen)
	}
}

func TestARenameIntoAnotherDirectoryTakesTheFlushOfBoth(t *testing.T) {
	ops := []powerfs.Op{
		{Kind: powerfs.Mkdir, Node: powerfs.Root, Child: dir, Name: "d"}, create(file, "a"), {Kind: powerfs.Sync},
		{Kind: powerfs.Rename, Node: powerfs.Root, Child: file, Name: "a", To: dir, ToName: "b"}, fsync(dir),
	}
	if got := states(ops, "d/b"); !slices.Equal(got, []string{"", "-"}) {
		t.Errorf("after the flush of one: %q", got)
	}
	if got := states(append(ops, fsync(powerfs.Root)), "d/b"); !slices.Equal(got, []string{""}) {
		t.Errorf("after the flush of both: %q", got)
	}
	if got := states(append(ops, fsync(powerfs.Root)), "a"); !slices.Equal(got, []string{"-"}) {
		t.Errorf("the old name after the flush of both: %q", got)
	}
}

func TestAWriteIsTornAtPagesAndSectorsOfTheDisk(t *testing.T) {
	const start, size = 100, 12000
	ops := []powerfs.Op{create(file, "a"), fsync(powerfs.Root), write(file, start, string(bytes.Repeat([]byte{'x'}, size)))}
	player := powerfs.NewPlayer(&powerfs.Log{Ops: ops})
	player.Advance(len(ops))
	torn := map[int]int{} // by the size of the pieces
	for seed := range uint64(500) {
		content := player.Image(rand.New(rand.NewPCG(seed, 1))).Files["a"]
		for _, piece := range []int{4096, 512} {
			if edges := edges(content, start, start+size); len(edges) > 0 && !slices.ContainsFunc(edges, func(at int) bool { return at%piece != 0 }) {
				torn[piece]++
				break
			}
		}
	}
	if torn[4096] == 0 || torn[512] == 0 {
		t.Errorf("images torn at pages and sectors: %v", torn)
	}
}

// edges is where content changes between written and not, between from and to.
func edges(content []byte, from, to int) (all []int) {
	for at := from + 1; at < min(to, len(content)); at++ {
		if content[at] != content[at-1] {
			all = append(all, at)
		}
	}
	if from < len(content) && len(content) < to {
		all = append(all, len(content))
	}
	return all
}

func TestTheSameSeedMakesTheSameImage(t *testing.T) {
	ops := []powerfs.Op{create(file, "a"), create(other, "b"), write(file, 0, "x"), write(other, 0, "y"), mv("a", "c")}
	for seed := range uint64(50) {
		var images [2]powerfs.Image
		for i := range images {
			player := powerfs.NewPlayer(&powerfs.Log{Ops: ops})
			player.Advance(len(ops))
			images[i] = player.Image(rand.New(rand.NewPCG(seed, 1)))
		}
		for name, content := range images[0].Files {
			if second, found := images[1].Files[name]; !found || !bytes.Equal(content, second) || len(images[0].Files) != len(images[1].Files) {
				t.Fatalf("seed %d: %v and %v", seed, images[0], images[1])
			}
		}
	}
}

func TestAStoredImageIsWhatTheDiskHeld(t *testing.T) {
	at := t.TempDir()
	im := powerfs.Image{Dirs: []string{"d", "d/e"}, Files: map[string][]byte{"a": []byte("1"), "d/e/b": []byte("2")}}
	if err := im.Store(at); err != nil {
		t.Fatal(err)
	}
	for name, want := range im.Files {
		if got, err := os.ReadFile(filepath.Join(at, name)); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %q %v", name, got, err)
		}
	}
}

func TestARecordThatWasSavedReadsTheSame(t *testing.T) {
	log := &powerfs.Log{Format: "7", Ops: []powerfs.Op{create(file, "a"), write(file, 3, "x")}}
	var b bytes.Buffer
	if err := log.Save(&b); err != nil {
		t.Fatal(err)
	}
	whole := b.Bytes()
	got, err := powerfs.ReadLog(bytes.NewReader(whole))
	if err != nil || got.Format != "7" || len(got.Ops) != 2 || got.Ops[0].Name != "a" || got.Ops[1].Offset != 3 || string(got.Ops[1].Data) != "x" {
		t.Errorf("%+v %v", got, err)
	}
	if _, err := powerfs.ReadLog(bytes.NewReader(whole[:len(whole)/2])); err == nil {
		t.Error("half a record was taken for one")
	}
}
