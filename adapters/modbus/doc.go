// Package modbus reads and writes the devices of one Modbus TCP link.
//
// The promise:
//
//   - A value is delivered only if it is the answer to the very request that asked for it. A late,
//     duplicate, short or foreign answer is counted and dropped, never taken for the next one.
//   - A write happens while its caller waits or not at all. Nil means that the device confirmed it,
//     gateway.ErrNoAnswer that it was not sent, gateway.ErrUncertain that nobody can know. A write
//     is never repeated on its own, and several registers go out in one request.
//   - A dead unit costs the others one timeout per poll cycle, and one per probe interval once it
//     counts as offline.
//   - A point that the device refuses takes no neighbour with it.
//   - The wire never waits for whoever takes the readings. If that one is slow, the newest reading
//     of a point replaces the waiting one, and is counted.
//
// One goroutine owns the connection and everything learned about the devices (MB-50). Plan, codec,
// schedule and backoff are pure functions beside it. Framing (mbap.go) and the life of the
// connection (link.go) are apart, so that RTU and ASCII framing or another dial function fit under
// the same adapter.
package modbus
