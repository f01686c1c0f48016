//go:build proof

package buffer_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"iothub-gateway/internal/powerfs"
	"iothub-gateway/internal/testkit"
)

// The whole stack below the queue: ext4, with its journal, on a loop device, on a file of a file system
// that records what gets to it. Each image of that file is a disk after a power cut: it is mounted, so
// that ext4 replays its journal, and the queue on it is opened.
func TestProofPowerCutsUnderExt4(t *testing.T) {
	const round = 250
	images, seed := testkit.Number(t, "EXT4_IMAGES", 1000), testkit.Seed(t)
	t.Logf("seed %d, %d images", seed, images)
	random := rand.New(rand.NewPCG(seed, 0))
	p, began := &proof{}, time.Now()
	for done := uint64(0); done < images; done += round {
		log := recordExt4(t, random.Uint64())
		checkExt4(t, p, log, int(min(round, images-done)), random)
		t.Logf("%v: %v", time.Since(began).Round(time.Second), p)
	}
	if !t.Failed() {
		t.Logf("proof: power cuts under ext4: seed %d, %v, 0 wrong, %d replays of the journal, %d repaired by e2fsck, in %v", seed, p, p.replayed.Load(), p.repaired.Load(), time.Since(began).Round(time.Second))
	}
}

const (
	diskName = "disk.img"
	diskSize = 24 << 20
	// needsRecovery is where the superblock says that the journal is to be replayed.
	needsRecovery = 1024 + 0x60
)

// command runs a program that must succeed, and returns what it said.
func command(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

// recordExt4 runs the load on an ext4 whose disk is recorded.
func recordExt4(t *testing.T, seed uint64) *powerfs.Log {
	t.Helper()
	below, above := t.TempDir(), t.TempDir()
	disk, err := powerfs.Mount(below, powerfs.Image{Files: map[string][]byte{diskName: make([]byte, diskSize)}})
	if err != nil {
		t.Fatal(err)
	}
	command(t, "mkfs.ext4", "-q", "-E", "nodiscard,lazy_itable_init=0", "-J", "size=4", filepath.Join(below, diskName))
	if err := mountExt4(filepath.Join(below, diskName), above); err != nil {
		t.Fatal(err)
	}
	command(t, "sync", "-f", above)
	disk.Sync()
	failed := runChild(t, "power", above, "BUFFER_TEST_NOTES="+below, fmt.Sprint("BUFFER_TEST_SEED=", seed))
	command(t, "umount", "-d", above)
	if err := errors.Join(failed, disk.Unmount()); err != nil {
		t.Fatalf("seed %d: %v", seed, err)
	}
	return disk.Log(powerFormat())
}

func mountExt4(image, at string) error {
	if out, err := exec.Command("mount", "-t", "ext4", "-o", "loop,errors=remount-ro", image, at).CombinedOutput(); err != nil {
		return fmt.Errorf("mount %s: %w\n%s", image, err, out)
	}
	return nil
}

// boot mounts a disk as a machine does that starts: one that ext4 does not take, because its superblock is
// torn, is repaired first.
func (p *proof) boot(image, at string) error {
	if mountExt4(image, at) == nil {
		return nil
	}
	var exit *exec.ExitError
	out, err := exec.Command("e2fsck", "-fy", image).CombinedOutput()
	if err != nil && (!errors.As(err, &exit) || exit.ExitCode() > 2) { // e2fsck(8): 1 and 2 are repaired
		return fmt.Errorf("e2fsck %s: %w\n%s", image, err, out)
	}
	p.repaired.Add(1)
	return mountExt4(image, at)
}

// checkExt4 checks n images at random moments.
func checkExt4(t *testing.T, p *proof, log *powerfs.Log, n int, random *rand.Rand) {
	t.Helper()
	dir, err := os.MkdirTemp(fastDir(), "buffer-ext4-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	at := t.TempDir()
	born := log.Born()
	moments := make([]int, n)
	for i := range moments {
		moments[i] = born + random.IntN(len(log.Ops)+1-born)
	}
	slices.Sort(moments)
	player, heard, s := powerfs.NewPlayer(log), 0, said{}
	for _, moment := range moments {
		player.Advance(moment)
		if s, err = s.after(log.Ops[heard:moment]); err != nil {
			t.Fatal(err)
		}
		heard = moment
		image := player.Image(random).Files[diskName]
		if image[needsRecovery]&4 != 0 { // EXT4_FEATURE_INCOMPAT_RECOVER
			p.replayed.Add(1)
		}
		path := filepath.Join(dir, diskName)
		if err := os.WriteFile(path, image, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := p.boot(path, at); err != nil {
			t.Fatalf("operation %d of %d: %v", moment, len(log.Ops), err)
		}
		late := time.AfterFunc(hang, func() { panic("the queue hangs on an image of a power cut under ext4") })
		_, err := p.verify(at, s)
		late.Stop()
		command(t, "umount", "-d", at)
		if err != nil {
			t.Fatalf("operation %d of %d: %v", moment, len(log.Ops), err)
		}
		p.checked.Add(1)
	}
}
