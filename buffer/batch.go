package buffer

import gateway "iothub-gateway"

// batch is what waits for the committer: Puts, which share one transaction, so that one channel tells
// them all, and what else is asked of it.
type batch struct {
	calls []*call
	cuts  []cutting
	ops   []*op
	done  chan struct{} // closed when err is set
	err   error
}

// call is one Put.
type call struct {
	puts    []pending
	refused []gateway.IdentityID // those that have no room; valid when the batch is done
}

// pending is an entry that is being put.
type pending struct {
	lane    *Lane
	record  []byte
	seq     uint64
	dropped bool // at once: only a gap says that it was there
}

func (p *pending) size() int64 { return int64(keyLen + len(p.record)) }

// kept is the record, unless it was dropped.
func (p *pending) kept() []byte {
	if p.dropped {
		return nil
	}
	return p.record
}

func newBatch() *batch { return &batch{done: make(chan struct{})} }

// finish tells the Puts. Only the first call counts.
func (b *batch) finish(err error) {
	select {
	case <-b.done:
	default:
		b.err = err
		close(b.done)
	}
}

// refuse tells everybody.
func (b *batch) refuse(err error) {
	b.finish(err)
	for _, o := range b.ops {
		o.finish(err)
	}
}
