package testkit

import (
	"os"
	"strconv"
	"testing"
	"time"
)

// Number is the whole number, 0 to 2^63-1, that the variable name of the environment holds, or otherwise: how much a
// long run does.
func Number(t testing.TB, name string, otherwise uint64) uint64 {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(text, 10, 63)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

// Seed is that of the variable SEED, or another one each time. Who takes it logs it, so that a run can be had again.
func Seed(t testing.TB) uint64 {
	t.Helper()
	return Number(t, "SEED", uint64(time.Now().UnixNano()))
}
