package hubsim

import (
	"context"
	"iter"
	"math"
)

// pageRecords is how many messages a consumer takes from the store at a time.
const pageRecords = 256

// Messages returns the stored messages with Sequence > after, oldest first, at most limit of them; 0 or
// less is no limit. With a Dir a message is stored once it is on disk.
func (h *Hub) Messages(after uint64, limit int) []Message {
	if limit <= 0 {
		limit = math.MaxInt
	}
	var all []Message
	for m := range h.stored(after) {
		all = append(all, m)
		if len(all) == limit {
			break
		}
	}
	return all
}

// stored yields the messages behind after and ends at the newest.
func (h *Hub) stored(after uint64) iter.Seq[Message] {
	return func(yield func(Message) bool) {
		for {
			records, _ := h.store.page(after, pageRecords)
			if len(records) == 0 {
				return
			}
			for i := range records {
				if !yield(records[i].message(h.cfg.RetainProperty)) {
					return
				}
			}
			after = records[len(records)-1].sequence
		}
	}
}

// Watch yields the stored messages with Sequence > after, then every new one as it is stored, until ctx
// ends. A slow reader holds nobody up and misses nothing, unless it falls so far behind that MaxStored
// drops messages: then the Sequence jumps.
func (h *Hub) Watch(ctx context.Context, after uint64) iter.Seq[Message] {
	return func(yield func(Message) bool) {
		for {
			records, newer := h.store.page(after, pageRecords)
			for i := range records {
				if ctx.Err() != nil || !yield(records[i].message(h.cfg.RetainProperty)) {
					return
				}
			}
			if len(records) > 0 {
				after = records[len(records)-1].sequence
				continue
			}
			select {
			case <-newer:
			case <-ctx.Done():
				return
			}
		}
	}
}
