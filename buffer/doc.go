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
// # The files
//
// One bbolt file, 00000001.db, in the queue's directory, and "lock", which its owner holds. All
// integers are big endian:
//
//	meta        "format" -> 4 bytes, "id" -> the queue id, "first" -> global sequence at which the
//	            file begins (8), "epoch" -> how often the queue was opened (4), "settled" -> 8 bytes
//	identities  identity number (4) -> its name
//	marks       identity number (4) -> lane sequence (8) and global sequence (8) of the newest entry
//	            that has left
//	next        identity number (4) -> next lane sequence (8) when the file was born
//	cuts        identity number (4) -> where packs were cut
//	clock       corrections of times
//	log         global sequence (8) + identity number (4) -> record
//
// A value outside the log ends with a CRC-32C (value.go). There is one log for all identities because
// a commit then touches a few pages at the end of one tree instead of one page an identity: on flash
// that is 3 bytes written for a byte stored instead of 45. The identity number stands in the key so
// that opening reads keys only. A record (record.go) is
//
//	version 2 | kind 1 | lane sequence 8 | created: seconds 8, nanoseconds 4 | epoch 4 | flags 1 |
//	what the flags say | number of properties, uvarint | name and value of each: length, uvarint,
//	and text | body | CRC-32C of key and record 4
//
// Version 1 has no epoch and no flags. Kind 1 is an entry, kind 2 a gap (gap.go).
//
// The goroutine in Run owns the file: it commits everything that waits, Puts and acknowledgements
// alike, in one transaction. In memory are, for each lane, the global sequences of its entries
// (index.go, 1 to 3 bytes an entry) and, for all, the newest records (recent.go, bounded), so that
// a lane that keeps up never reads the file.
package buffer
