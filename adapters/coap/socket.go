package coap

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"time"

	coapnet "github.com/plgd-dev/go-coap/v3/net"
)

// maxDatagram is the largest UDP payload. A smaller buffer would cut datagrams off unseen (COAP-94).
const maxDatagram = 1<<16 - 1

// readBuffer is how many bytes the kernel may hold for us; a burst of many devices fits.
const readBuffer = 1 << 20

// socket is the listener's UDP socket. On a wildcard address it tells where a datagram was sent to,
// so that the answer comes from there.
type socket struct {
	conn     *coapnet.UDPConn
	wildcard bool
}

// listen opens a socket. "0.0.0.0:5683" is IPv4 only, "[::]:5683" and ":5683" are both families.
func listen(address string) (*socket, error) {
	network := "udp"
	if host, _, err := net.SplitHostPort(address); err == nil {
		if ip, err := netip.ParseAddr(host); err == nil && ip.Is4() {
			network = "udp4"
		}
	}
	conn, err := coapnet.NewListenUDP(network, address)
	if err != nil {
		return nil, err
	}
	if udp, ok := conn.NetConn().(*net.UDPConn); ok {
		_ = udp.SetReadBuffer(readBuffer) // the kernel's own limit is good enough
	}
	s := &socket{conn: conn}
	if local, ok := conn.LocalAddr().(*net.UDPAddr); ok {
		s.wildcard = local.IP.IsUnspecified()
	}
	return s, nil
}

func (s *socket) addr() string { return s.conn.LocalAddr().String() }

func (s *socket) close() { _ = s.conn.Close() }

// arrival says where a datagram came from and where it was sent to.
type arrival struct {
	from  netip.AddrPort
	local netip.Addr // invalid if the socket has one address anyway
}

// read waits for a datagram that was sent to this host alone: nobody answers a multicast (COAP-50).
func (s *socket) read(buffer []byte) (int, arrival, error) {
	for {
		var remote *net.UDPAddr
		var control *coapnet.ControlMessage
		n, err := s.conn.ReadWithOptions(buffer, coapnet.WithGetRemoteAddr(&remote), coapnet.WithGetControlMessage(&control))
		if err != nil {
			return 0, arrival{}, err
		}
		if control != nil && control.Dst.IsMulticast() {
			continue
		}
		a := arrival{from: unmapped(remote.AddrPort())}
		if s.wildcard && control != nil {
			local, _ := netip.AddrFromSlice(control.Dst)
			a.local = local.Unmap()
		}
		return n, a, nil
	}
}

// unmapped is an address in the form that the mapping uses: IPv4 is IPv4, whatever the socket is.
func unmapped(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()) }

// write sends a datagram from the address that the peer knows.
func (s *socket) write(datagram []byte, to netip.AddrPort, local netip.Addr) error {
	options := []coapnet.UDPWriteOption{coapnet.WithRemoteAddr(net.UDPAddrFromAddrPort(to))}
	if local.IsValid() {
		options = append(options, coapnet.WithControlMessage(&coapnet.ControlMessage{Src: local.AsSlice()}))
	}
	return s.conn.WriteWithOptions(datagram, options...)
}

// serve hands every datagram to handle until the socket is closed. The datagram is handle's only
// until it returns. An error that does not go away is tried again once a second: a network that
// comes back finds the listener alive.
func (s *socket) serve(ctx context.Context, handle func(arrival, []byte)) {
	buffer := make([]byte, maxDatagram)
	for {
		n, from, err := s.read(buffer)
		switch {
		case err == nil:
			handle(from, buffer[:n])
		case errors.Is(err, net.ErrClosed), errors.Is(err, coapnet.ErrConnectionIsClosed):
			return
		default:
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
			}
		}
	}
}

// udpPeer is an endpoint without security.
type udpPeer struct {
	socket *socket
	arrival
}

func (p udpPeer) id() endpointID { return endpointID{arrival: p.arrival} }

func (p udpPeer) send(datagram []byte) { _ = p.socket.write(datagram, p.from, p.local) }
