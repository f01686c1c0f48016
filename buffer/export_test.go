package buffer

import "go.etcd.io/bbolt"

// OnCommit puts commit in the place of (*bbolt.Tx).Commit. Call it before Run.
func (q *Queue) OnCommit(commit func(*bbolt.Tx) error) { q.commit = commit }
