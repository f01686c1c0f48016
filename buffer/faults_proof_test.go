//go:build proof

package buffer_test

import (
	"syscall"
	"testing"
)

func TestProofEveryFailureOfTheDisk(t *testing.T) {
	everyFailure(t, 1, ways{{syscall.EIO, 1}, {syscall.EIO, 0}, {syscall.ENOSPC, 1}, {syscall.ENOSPC, 0}})
}
