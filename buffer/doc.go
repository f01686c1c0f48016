// Package buffer is the durable store-and-forward queue between the field and the hub.
//
// The promise, as far as it is the buffer's:
//
//  1. A reading accepted by the buffer survives kill -9 and, on a disk that honours flush, power
//     loss: when Put returns nil the entries are on disk.
//  2. Within one identity the entries come out in the order they were accepted, numbered 1, 2, 3...
//     without a hole. A number is never used for a second entry, not even when the queue was drained
//     empty before a restart. A repeat has the same number and the same bytes.
//  3. An entry leaves the queue only after Ack, which upstream calls on the hub's PUBACK, or by a
//     limit, an operator's word or damage. What leaves without an Ack becomes a gap, in its place and
//     in the same transaction, which is delivered like an entry: received and marked is what was
//     produced, exactly. What may be in flight is neither dropped nor changed.
//  4. One identity's trouble (a backlog, a damaged record, nobody reading) never delays another's.
//
// # The files
//
// In the queue's directory are "lock", which its owner holds, "running" and "opening" (markers.go),
// "identities" (names.go), files that were set aside, and the generations 00000001.db, 00000002.db...:
// bbolt files. Only the newest is written; the others are sealed. All integers are big endian:
//
//	meta        "format" -> 4 bytes, "id" -> the queue id, "first" -> global sequence at which the
//	            file begins (8), "epoch" -> how often the queue was opened (4), "settled" -> 8 bytes
//	identities  identity number (4) -> its name
//	marks       identity number (4) -> lane sequence (8) and global sequence (8) of the newest element
//	            that has left
//	next        identity number (4) -> next lane sequence (8) when the file was born
//	cuts        identity number (4) -> last sequences (8 each) of packs that were handed out (cut.go)
//	clock       boot id (4) -> epoch (4), and once the clock was good in that boot: when the boot was
//	            (8), and what keeps its stamp: identity number (4) and lane sequence (8) each (clock.go)
//	log         global sequence (8) + identity number (4) -> record
//
// A value outside the log ends with a CRC-32C (value.go). There is one log for all identities because
// a commit then touches a few pages at the end of one tree instead of one page an identity: on flash
// that is 3 bytes written for a byte stored instead of 45. The identity number stands in the key so
// that opening reads keys, and no more of a record than its first bytes. A record (record.go) is
//
//	version 2 | kind 1 | lane sequence 8 | created: seconds 8, nanoseconds 4 | epoch 4 | flags 1 |
//	what the flags say | number of properties, uvarint | name and value of each: length, uvarint,
//	and text | body | CRC-32C of key and record 4
//
// Version 1 has no epoch and no flags. Kind 1 is an entry, kind 2 a gap (gap.go), which stands at the
// key of the last entry that it covers.
//
// Nothing is deleted from a log. An element has left when its lane's mark, or a gap, has passed it: to
// drain a backlog writes marks alone, no list of free pages grows, and a commit afterwards is as small
// as before. Space comes back file by file: once the newest is larger than 64 MiB a new generation is
// begun with all that is not in the log, and a sealed one in which nothing waits any more is unlinked.
// What still waits in a sealed file of which little does is moved to the newest, under the same keys, so
// that one lane that is not read does not keep the files of all. Two files may hold an element under
// one key; the newer one counts. Only when the disk is full, and a
// new file cannot be begun, are records that have left deleted from the newest log.
//
// A sequence that is in no file although no mark has passed it was lost by the disk: opening puts a
// gap in its place.
//
// # Damage
//
// Nothing is believed of a file that was not checked. The newest is read as a whole when the queue is
// opened, by a reader of our own that no content can make panic, loop or allocate without bound
// (pages.go), because bbolt trusts what it opens; the others too after a process that died, in a
// process of their own with limits (child.go). A damaged file is set aside under another name. What is
// whole in it is found page by page without its tree, by the checksums, and takes its place
// (salvage.go, recover.go): under the same queue id. If it was the newest, what comes next is in a new
// file under a new queue id, because the sequences of its lost end may have been used.
//
// The goroutine in Run owns the files: it commits everything that waits, Puts and acknowledgements
// alike, in one transaction. In memory are, for each lane, the global sequences of its elements
// (chain.go, 1 to 3 bytes an entry, so that the limit of size bounds it) and, for all, the newest
// records (recent.go, bounded), so that a lane that keeps up never reads a file.
package buffer
