package dial

import (
	"crypto/x509"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
)

func TestAWebSocketThatTheServerEndsReadsLikeAConnectionThatItEnds(t *testing.T) {
	for name, end := range map[string]func(*websocket.Conn){
		"without a word": func(ws *websocket.Conn) { _ = ws.CloseNow() },
		"normally":       func(ws *websocket.Conn) { _ = ws.Close(websocket.StatusNormalClosure, "") },
		"for a fault":    func(ws *websocket.Conn) { _ = ws.Close(websocket.StatusProtocolError, "no such topic") },
		"for its own":    func(ws *websocket.Conn) { _ = ws.Close(websocket.StatusInternalError, "") },
	} {
		server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{"mqtt"}})
			if err != nil {
				t.Error(err)
				return
			}
			end(ws)
		}))
		roots := x509.NewCertPool()
		roots.AddCert(server.Certificate())
		conn, err := Hub(t.Context(), Config{
			Address: strings.TrimPrefix(server.URL, "https://"), ServerName: "example.com", Roots: roots, WebSocket: true,
			WriteTimeout: time.Second, MaxPacket: 1 << 10,
		})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("ended %s: %v", name, err)
		}
		_ = conn.Close()
		server.Close()
	}
}
