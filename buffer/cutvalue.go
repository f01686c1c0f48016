package buffer

import (
	"encoding/binary"
	"slices"
)

// cutsValue stores ends.
func cutsValue(number uint32, ends []uint64) value {
	content := make([]byte, 0, 8*len(ends))
	for _, end := range ends {
		content = binary.BigEndian.AppendUint64(content, end)
	}
	return value{bucketCuts, numberKey(number), content}
}

// parseCuts reads what cutsValue stores.
func parseCuts(content []byte) (ends []uint64, ok bool) {
	for ; len(content) >= 8; content = content[8:] {
		ends = append(ends, binary.BigEndian.Uint64(content))
	}
	return ends, len(content) == 0 && slices.IsSorted(ends)
}

// The values in the bucket of cuts that are no cuts.
const (
	keyBatch    = "batch" // whether packs were on when the queue was opened last
	plainSuffix = "p"     // behind an identity number: spans (8 and 8 bytes) that stay plain
)

// keepPlain finds out which entries may have been sent as they were put, if packs were off before and are
// on now, and returns what is to be stored about it.
func (q *Queue) keepPlain(l *loader) (values []value) {
	before := string(l.other[bucketCuts+keyBatch].content) == "1"
	on := q.cfg.Batch.MaxBytes > 0
	if q.cfg.Inspect {
		on = before
	}
	for number, lane := range q.committer.byNumber {
		key := append(numberKey(number), plainSuffix...)
		content := l.other[bucketCuts+string(key)].content
		for ; len(content) >= 16; content = content[16:] {
			s := span{binary.BigEndian.Uint64(content), binary.BigEndian.Uint64(content[8:])}
			if s.to > lane.gone {
				lane.plain = append(lane.plain, s)
			}
		}
		behind := max(lane.gone, lane.layout(0).last())
		if !on || before || lane.handed <= behind {
			continue
		}
		lane.plain = append(lane.plain, span{behind, lane.handed})
		var stored []byte
		for _, s := range lane.plain {
			stored = binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(stored, s.behind), s.to)
		}
		values = append(values, value{bucketCuts, key, stored})
	}
	if on != before {
		content := []byte("0")
		if on {
			content = []byte("1")
		}
		values = append(values, value{bucketCuts, []byte(keyBatch), content})
	}
	return values
}
