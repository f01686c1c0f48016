// Package buffer is the durable store-and-forward queue between the field and the hub.
//
// The promise, as far as it is the buffer's:
//
//  1. A reading accepted by the buffer survives kill -9 and, on a disk that honours flush, power
//     loss: when Put returns nil the entries are on disk.
//  2. Within one identity the entries come out in the order they were accepted, numbered 1, 2, 3...
//     without a hole. A number is never used for a second entry, not even when the queue was drained
//     empty before a restart. A repeat has the same number and the same bytes.
//  3. An entry leaves the queue only after Ack, which upstream calls on the hub's PUBACK.
//  4. One identity's trouble (a backlog, a damaged record, nobody reading) never delays another's.
//
// # The file
//
// One bbolt file of four buckets; all integers are big endian:
//
//	meta        "format" -> 4 bytes, "id" -> the queue id, "settled" -> 8 bytes (see settle.go)
//	identities  identity number (4) -> its name
//	marks       identity number (4) -> lane sequence (8) up to which the lane's entries have left
//	log         global sequence (8) + identity number (4) -> record
//
// There is one log for all identities because a commit then touches a few pages at the end of one
// tree instead of one page an identity: on flash that is 3 bytes written for a byte stored instead
// of 45. The identity number stands in the key so that opening reads keys only. A lane's numbers
// in the log are consecutive: the oldest is its mark + 1. A record (record.go) is
//
//	version 1 | kind 1 | lane sequence 8 | created: seconds 8, nanoseconds 4 |
//	number of properties, uvarint | name and value of each: length, uvarint, and text |
//	body | CRC-32C of key and record 4
//
// The goroutine in Run owns the file: it commits everything that waits, Puts and acknowledgements
// alike, in one transaction. In memory are, for each lane, the global sequences of its entries
// (index.go, 1 to 3 bytes an entry) and, for all, the newest records (recent.go, bounded), so that
// a lane that keeps up never reads the file.
package buffer
