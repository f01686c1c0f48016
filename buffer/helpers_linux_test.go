package buffer_test

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// writtenBytes is what this process has written so far, as the kernel counts it.
func writtenBytes(t testing.TB) (n int) {
	t.Helper()
	data, err := os.ReadFile("/proc/self/io")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(data), "wchar: ")
	if _, err := fmt.Sscan(rest, &n); err != nil {
		t.Fatal(err)
	}
	return n
}
