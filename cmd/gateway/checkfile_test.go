package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestAQueueFileIsCheckedInAProcessOfItsOwn(t *testing.T) {
	data, err := os.ReadFile("../../buffer/testdata/format1.db")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "queue.db")
	check := func() string {
		t.Helper()
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		report, err := queueFileCheck()(t.Context(), path)
		if err != nil || report.Format != 1 {
			t.Fatalf("%+v %v", report, err)
		}
		return report.Damage
	}
	if damage := check(); damage != "" {
		t.Errorf("a sound file: %s", damage)
	}
	data[strings.Index(string(data), `{"n":239}`)+2] ^= 1
	if damage := check(); !strings.Contains(damage, "checksum mismatch") {
		t.Errorf("a damaged file: %q", damage)
	}
}
