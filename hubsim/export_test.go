package hubsim

import "net"

// Tap lets tests listen in on every MQTT connection; before Run only.
func (h *Hub) Tap(tap func(net.Conn) net.Conn) { h.tap = tap }

// NextRequest chooses the request id of the next method call.
func (h *Hub) NextRequest(id uint64) { h.requests.Store(id - 1) }
