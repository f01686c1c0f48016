// Package modbus reads and writes the devices of one Modbus link: TCP, TLS, RTU or ASCII over TCP, or a
// serial port.
//
// The promise:
//
//   - A value is delivered only if it is the answer to the very request that asked for it. A late,
//     duplicate, short or foreign answer, an echo and noise are counted and dropped, never taken for the
//     next answer. Where answers carry no transaction id this holds for everything that comes within
//     twice the timeout: the unit is left alone for so long (MB-25).
//   - A write happens while its caller waits or not at all. Nil means that the device confirmed it,
//     gateway.ErrNoAnswer that it was not sent, gateway.ErrUncertain that nobody can know. A write
//     is never repeated on its own, and several registers go out in one request.
//   - Units of a link are asked in turn, one request each. A dead one costs the others one timeout per
//     poll cycle, and once it counts as offline, all dead ones together one per probe interval.
//   - A point that the device refuses takes no neighbour with it.
//   - The wire never waits for whoever takes the readings. If that one is slow, the newest reading
//     of a point replaces the waiting one, and is counted.
//
// One goroutine owns a connection and everything learned about the units behind it (MB-50). Plan, codec,
// schedule, backoff and the framings are pure functions beside it. Bytes travel in a stream (stream.go,
// serial.go); a framing (mbap.go, rtu.go, ascii.go) finds the answer in them; the link (link.go,
// exchange.go) is the connection's life and one exchange; the wire (wire.go, turn.go) decides who is next.
package modbus
