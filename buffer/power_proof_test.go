//go:build proof

package buffer_test

import (
	"math/rand/v2"
	"testing"
	"time"

	"iothub-gateway/internal/powerfs"
	"iothub-gateway/internal/testkit"
)

// Each round records a new load, on the empty disk or on what a power cut of the round before left, and
// checks images of it.
func TestProofPowerCuts(t *testing.T) {
	const round = 2000
	images, seed := testkit.Number(t, "IMAGES", 100_000), testkit.Seed(t)
	t.Logf("seed %d, %d images", seed, images)
	random := rand.New(rand.NewPCG(seed, 0))
	p, began := &proof{}, time.Now()
	disk, from := powerfs.Image{}, said{}
	for done := uint64(0); done < images; done += round {
		log := recordPower(t, disk, random.Uint64())
		if err := p.images(log, from, int(min(round, images-done)), random.Uint64()); err != nil {
			t.Fatalf("seed %d, after %d images: %v", seed, done, err)
		}
		t.Logf("%v: %v", time.Since(began).Round(time.Second), p)
		disk, from = nextDisk(t, log, from, random)
	}
	t.Logf("proof: power cuts of the store: seed %d, %v, 0 wrong, in %v", seed, p, time.Since(began).Round(time.Second))
}

// nextDisk is the disk after a power cut somewhere in log, and what its queue holds; every third time
// an empty one.
func nextDisk(t *testing.T, log *powerfs.Log, from said, random *rand.Rand) (powerfs.Image, said) {
	t.Helper()
	if random.IntN(3) == 0 {
		return powerfs.Image{}, said{}
	}
	at := log.Born() + random.IntN(len(log.Ops)+1-log.Born())
	player := powerfs.NewPlayer(log)
	player.Advance(at)
	from, err := from.after(log.Ops[:at])
	if err != nil {
		t.Fatal(err)
	}
	disk, dir := player.Image(random), t.TempDir()
	if err := disk.Store(dir); err != nil {
		t.Fatal(err)
	}
	found, err := new(proof).verify(dir, from)
	if err != nil {
		t.Fatal(err)
	}
	if from.born == "" { // whether it was born already is open
		return powerfs.Image{}, said{}
	}
	return disk, found
}
