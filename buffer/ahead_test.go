package buffer_test

import (
	"slices"
	"syscall"
	"testing"
	"testing/synctest"

	"go.etcd.io/bbolt"

	"iothub-gateway/buffer"
)

// After a restart so many elements count as sent, and stay as they are.
func TestNoMoreIsSentThanARestartTakesForSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q, _, _ := startFaulty(t, queuePath(t))
		const all = 4 * buffer.MaxInFlight
		put(t, q, messages("a", 1, all)...)
		for sent := 0; sent < all; {
			entries := next(t, q.Lane("a"), uint64(sent), 1)
			sent = int(entries[len(entries)-1].Seq)
			if gone := int(q.Stats().Lanes["a"].Acked); sent-gone > buffer.MaxInFlight {
				t.Fatalf("%d was sent, and on disk %d is acknowledged", sent, gone)
			}
			q.Lane("a").Ack(uint64(sent))
		}
	})
}

func TestADiskThatFailsHoldsNoDeliveryBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q, disk, _ := startFaulty(t, queuePath(t))
		put(t, q, messages("a", 1, 500)...)
		disk.next(slices.Repeat([]func(*bbolt.Tx) error{lost(syscall.EIO)}, 100)...)
		for sent := 0; sent < 500; {
			entries := next(t, q.Lane("a"), uint64(sent), 1)
			sent = int(entries[len(entries)-1].Seq)
			q.Lane("a").Ack(uint64(sent))
		}
		disk.next()
	})
}
