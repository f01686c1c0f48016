package buffer

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"go.etcd.io/bbolt"
)

// treeFile makes a bbolt file with elements of all sizes in three buckets and returns what is in it,
// by bucket and key.
func treeFile(t testing.TB, records int) (data []byte, content map[string]string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "tree.db")
	options := boltOptions()
	options.OpenFile = nil
	db, err := bbolt.Open(path, 0o600, options)
	if err != nil {
		t.Fatal(err)
	}
	content = map[string]string{}
	put := func(tx *bbolt.Tx, bucket, key, value string) {
		b, err := tx.CreateBucketIfNotExists([]byte(bucket))
		if err == nil {
			err = b.Put([]byte(key), []byte(value))
		}
		if err != nil {
			t.Fatal(err)
		}
		content[bucket+" "+key] = value
	}
	for n := 0; n < records; {
		err := db.Update(func(tx *bbolt.Tx) error {
			for range 40 {
				size := n % 300
				if n%97 == 96 {
					size = 20_000 // a page with overflow
				}
				put(tx, "log", fmt.Sprintf("%012d", n), string(bytes.Repeat([]byte{byte(n)}, size)))
				n++
			}
			put(tx, "small", "format", "1234") // an inline bucket
			put(tx, "middle", fmt.Sprint("name", n/40), fmt.Sprint("boiler", n))
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if data, err = os.ReadFile(path); err != nil {
		t.Fatal(err)
	}
	return data, content
}

func walkAll(data []byte) (found map[string]string, err error) {
	p, err := openPages(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		return nil, err
	}
	found = map[string]string{}
	err = p.walk(context.Background(), func(e item) error {
		found[e.bucket+" "+string(e.key)] = string(e.value)
		return nil
	})
	return found, err
}

func scanAll(t testing.TB, data []byte) map[string]string {
	p, err := openPages(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]string{}
	if _, err := p.scan(context.Background(), func(e item) error {
		found[string(e.key)] = string(e.value)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return found
}

func TestTheWalkSeesWhatBboltSees(t *testing.T) {
	for _, records := range []int{40, 2000} {
		data, content := treeFile(t, records)
		found, err := walkAll(data)
		if err != nil {
			t.Fatal(err)
		}
		if !maps.Equal(found, content) {
			t.Errorf("%d records: %d elements, want %d", records, len(found), len(content))
		}
	}
}

func TestTheWalkTakesAFreelistThatAnotherProgramWrote(t *testing.T) {
	data, content := treeFile(t, 2000)
	path := filepath.Join(t.TempDir(), "synced.db")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	db, err := bbolt.Open(path, 0o600, nil) // writes its freelist
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if data, err = os.ReadFile(path); err != nil {
		t.Fatal(err)
	}
	if found, err := walkAll(data); err != nil || !maps.Equal(found, content) {
		t.Fatalf("%v, %d elements", err, len(found))
	}
	p, _ := openPages(bytes.NewReader(data), int64(len(data)))
	entry := int64(p.metas[0].freelist)*p.page + pageHeader
	binary.NativeEndian.PutUint64(data[entry:], p.metas[0].root) // a page in use is called free
	if _, err := walkAll(data); !errors.Is(err, ErrDamaged) {
		t.Errorf("got %v", err)
	}
}

// A tree in which every page header, branch and meta page is broken still gives every element.
func TestTheScanFindsEverythingWithoutTheTree(t *testing.T) {
	data, content := treeFile(t, 2000)
	for at := 0; at < len(data); at += 4096 {
		if flags := binary.NativeEndian.Uint16(data[at+8:]); flags == flagLeaf || flags == flagBranch || flags == flagMeta {
			clear(data[at : at+pageHeader])
		}
		if at < 2*4096 {
			clear(data[at : at+4096])
		}
	}
	if _, err := walkAll(data); !errors.Is(err, ErrDamaged) {
		t.Errorf("the walk: %v", err)
	}
	found := scanAll(t, data)
	for name, value := range content {
		_, key, _ := bytes.Cut([]byte(name), []byte(" "))
		if found[string(key)] != value {
			t.Fatalf("%s is missing", name)
		}
	}
}

// Each is refused with the page's number, and none is taken for good.
func TestTheWalkFindsDamageInEveryKindOfPage(t *testing.T) {
	good, _ := treeFile(t, 4000)
	p, err := openPages(bytes.NewReader(good), int64(len(good)))
	if err != nil {
		t.Fatal(err)
	}
	find := func(flags uint16, nth int) (offset int) {
		seen := ReachablePages(good)
		for at := 2 * 4096; at < len(good); at += 4096 {
			if binary.NativeEndian.Uint16(good[at+8:]) == flags && binary.NativeEndian.Uint64(good[at:]) == uint64(at/4096) && seen[at/4096] {
				if nth--; nth < 0 {
					return at
				}
			}
		}
		t.Fatal("no such page")
		return 0
	}
	branch, leaf, root := find(flagBranch, 0), find(flagLeaf, 3), int(p.metas[0].root)*4096
	newest, e := int(p.metas[0].tx%2)*4096, binary.NativeEndian
	damage := map[string]func(b []byte) []byte{
		"the newest meta page":           func(b []byte) []byte { b[newest+pageHeader+16] ^= 1; return b },
		"the older meta page":            func(b []byte) []byte { b[4096-newest+pageHeader+48] ^= 1; return b },
		"both meta pages":                func(b []byte) []byte { clear(b[:8192]); return b },
		"the first 16 KiB zeroed":        func(b []byte) []byte { clear(b[:16<<10]); return b },
		"cut in the middle":              func(b []byte) []byte { return b[:len(b)/2/4096*4096] },
		"cut to nothing":                 func([]byte) []byte { return nil },
		"a branch page zeroed":           func(b []byte) []byte { clear(b[branch : branch+4096]); return b },
		"a branch that points to itself": func(b []byte) []byte { e.PutUint64(b[branch+pageHeader+8:], uint64(branch/4096)); return b },
		"a branch that points to the root": func(b []byte) []byte {
			e.PutUint64(b[branch+pageHeader+8:], p.metas[0].root)
			return b
		},
		"a branch that points behind the end": func(b []byte) []byte { e.PutUint64(b[branch+pageHeader+8:], 1<<40); return b },
		"a leaf with 65,535 elements":         func(b []byte) []byte { e.PutUint16(b[leaf+10:], 0xFFFF); return b },
		"a leaf of 16 TB":                     func(b []byte) []byte { e.PutUint32(b[leaf+12:], 0xFFFFFFFF); return b },
		"a leaf that is another page":         func(b []byte) []byte { e.PutUint64(b[leaf:], 7777); return b },
		"a leaf with an element of 4 GB":      func(b []byte) []byte { e.PutUint32(b[leaf+pageHeader+12:], 0xFFFFFFFF); return b },
		"a leaf with a key out of order": func(b []byte) []byte {
			copy(b[leaf+pageHeader+2*elementHeader:], b[leaf+pageHeader:leaf+pageHeader+4])
			b[int(e.Uint32(b[leaf+pageHeader+4:]))+leaf+pageHeader] ^= 0x40
			return b
		},
		"a bucket that is none": func(b []byte) []byte { b[root+pageHeader] ^= 1; return b },
	}
	for name, change := range damage {
		if _, err := walkAll(change(bytes.Clone(good))); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What the walk finds no fault with, bbolt opens and reads.
func TestWhatTheWalkPassesBboltReads(t *testing.T) {
	good, content := treeFile(t, 800)
	random := rand.New(rand.NewPCG(1, 2))
	passed := 0
	for range 80 {
		data := bytes.Clone(good)
		bit := random.IntN(8 * len(data))
		data[bit/8] ^= 1 << (bit % 8)
		found, err := walkAll(data)
		if err != nil {
			continue
		}
		passed++
		path := filepath.Join(t.TempDir(), "flipped.db")
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		if got := readAllWithBbolt(t, path); !maps.Equal(got, found) || len(got) != len(content) {
			t.Fatalf("bit %d: bbolt reads %d elements, the walk %d", bit, len(got), len(found))
		}
	}
	if passed == 0 {
		t.Error("no flip passed: the test proves nothing")
	}
}

func readAllWithBbolt(t *testing.T, path string) map[string]string {
	db, err := bbolt.Open(path, 0o600, boltOptions())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	found := map[string]string{}
	err = db.View(func(tx *bbolt.Tx) error {
		return tx.ForEach(func(name []byte, b *bbolt.Bucket) error {
			return b.ForEach(func(k, v []byte) error {
				found[string(name)+" "+string(k)] = string(v)
				return nil
			})
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// Any bytes: the reader ends, without a panic, and what it passes is within the file.
func FuzzPages(f *testing.F) {
	small, _ := treeFile(f, 40)
	f.Add(small, uint32(0), byte(0))
	f.Add(small[:20000], uint32(4096*3+10), byte(0xFF))
	f.Add([]byte("devices:\n"), uint32(3), byte(1))
	f.Fuzz(func(t *testing.T, data []byte, at uint32, change byte) {
		data = bytes.Clone(data)
		if len(data) > 0 {
			data[int(at)%len(data)] ^= change
		}
		repairMetas(data) // or hardly any input would come further
		_, _ = walkAll(data)
		scanAll(t, data)
	})
}

// repairMetas makes the checksums of the meta pages right again.
func repairMetas(data []byte) {
	for _, at := range []int{0, 4096} {
		if len(data) >= at+pageHeader+metaLen {
			binary.NativeEndian.PutUint64(data[at+pageHeader+metaLen-8:], metaSum(data[at+pageHeader:]))
		}
	}
}
