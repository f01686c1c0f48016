package hubsim_test

import (
	"os"
	"testing"

	"go.uber.org/goleak"
)

// TestMain checks that no test leaves a goroutine behind. With HUBSIM_TEST_DIR set the program is the hub
// that a test kills.
func TestMain(m *testing.M) {
	if dir := os.Getenv("HUBSIM_TEST_DIR"); dir != "" {
		serveUntilKilled(dir)
		return
	}
	goleak.VerifyTestMain(m)
}
