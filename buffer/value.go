package buffer

import (
	"encoding/binary"
	"hash/crc32"
)

// sealValue is what is stored for content under key in a bucket other than the log: content and a
// CRC-32C over the bucket's name, a zero byte, key and content, so that it can be trusted even where
// it is found in a file whose tree is broken.
func sealValue(bucket string, key, content []byte) []byte {
	stored := append(make([]byte, 0, len(content)+crcLen), content...)
	return binary.BigEndian.AppendUint32(stored, valueSum(bucket, key, content))
}

// openValue is the content of what sealValue made, a part of stored; false if it is damaged or was
// stored elsewhere.
func openValue(bucket string, key, stored []byte) (content []byte, ok bool) {
	n := len(stored) - crcLen
	if n < 0 {
		return nil, false
	}
	content = stored[:n:n]
	return content, binary.BigEndian.Uint32(stored[n:]) == valueSum(bucket, key, content)
}

func valueSum(bucket string, key, content []byte) uint32 {
	table := castagnoli()
	sum := crc32.Checksum(append([]byte(bucket), 0), table)
	return crc32.Update(crc32.Update(sum, table, key), table, content)
}
