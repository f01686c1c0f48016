package buffer

import "go.etcd.io/bbolt"

// AckPatience is how long acknowledgements wait to share a commit.
const AckPatience = ackPatience

// What the queue file and its records are of.
const (
	FormatVersion = formatVersion
	RecordVersion = recordVersion
)

// OnCommit puts commit in the place of (*bbolt.Tx).Commit. Call it before Run.
func (q *Queue) OnCommit(commit func(*bbolt.Tx) error) { q.commit = commit }

// NoSync makes the queue trust a disk that it never flushes: what the proof must find out. Call it
// before Run.
func (q *Queue) NoSync() { q.committer.newest.handle().NoSync = true }
