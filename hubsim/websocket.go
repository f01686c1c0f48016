package hubsim

import (
	"context"
	"net"
	"net/http"
	"slices"
	"strings"

	"github.com/coder/websocket"
)

// websocket serves MQTT over WebSocket (CON-9). Any query string is taken (CON-10). The sub-protocol is
// mqtt in any letter case; packets may be split over messages and messages may hold several packets.
func (h *Hub) websocket(ctx context.Context, w http.ResponseWriter, r *http.Request) {
	if !offersMQTT(r) {
		h.log.Warn().Str("clause", "CON-9").Msg(r.RemoteAddr + ": a WebSocket without the sub-protocol mqtt: HTTP 400")
		http.Error(w, "Sec-WebSocket-Protocol: mqtt is missing", http.StatusBadRequest)
		return
	}
	// Before the server forgets the connection, so that Run waits for the session.
	h.sessions.Add(1)
	defer h.sessions.Done()
	// A device is no browser: what it says about its origin means nothing.
	conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{"mqtt"}, InsecureSkipVerify: true})
	if err != nil {
		h.log.Warn().Err(err).Msg(r.RemoteAddr + ": no WebSocket connection")
		return
	}
	stream := websocketConn{websocket.NetConn(ctx, conn, websocket.MessageBinary), conn}
	s := h.newSession(stream, conn.CloseNow)
	s.chain = r.TLS.PeerCertificates
	s.run(ctx)
}

// websocketConn closes as the hub does: it hangs up and does not wait for the client's goodbye.
type websocketConn struct {
	net.Conn
	socket *websocket.Conn
}

func (c websocketConn) Close() error {
	err := c.socket.CloseNow()
	_ = c.Conn.Close() // frees its timers; the socket is closed already
	return err
}

func offersMQTT(r *http.Request) bool {
	for _, line := range r.Header.Values("Sec-WebSocket-Protocol") {
		if slices.ContainsFunc(strings.Split(line, ","), func(p string) bool { return strings.EqualFold(strings.TrimSpace(p), "mqtt") }) {
			return true
		}
	}
	return false
}
