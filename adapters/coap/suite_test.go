package coap

import (
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/plgd-dev/go-coap/v3/message/codes"
	"github.com/rs/zerolog"

	gateway "iothub-gateway"
	"iothub-gateway/adapters/adaptertest"
)

// suiteDevice reports two points again and again, and a third one until it was taken.
type suiteDevice struct {
	t    testing.TB
	path string
	open func() (net.Conn, error)
	conn net.Conn
	mid  atomic.Int32
	once atomic.Bool // was taken
}

// report POSTs once and returns when it was answered or the device has lost patience.
func (d *suiteDevice) report() {
	body := `[{"n":"good","v":7},{"n":"bad","vs":"not a number"}`
	last := d.once.Load()
	if !last {
		body += `,{"n":"once","v":1}`
	}
	if d.conn == nil {
		conn, err := d.open()
		if err != nil {
			return
		}
		d.conn = conn
	}
	mid := d.mid.Add(1)
	w := wire{d.t, d.conn}
	if _, err := d.conn.Write(encoded(d.t, request110(d.path, mid, body+"]"))); err != nil {
		return
	}
	for end := time.Now().Add(time.Second); time.Now().Before(end); {
		m, ok := w.poll(time.Until(end))
		if ok && m.MessageID == mid && m.Code != codes.Empty {
			d.once.Store(last || m.Code == codes.Changed)
			return
		}
	}
}

func suiteSetup(t *testing.T, cfg Config, open func(address string) (net.Conn, error)) adaptertest.Setup {
	cfg.Devices[0].Points = []Point{
		{ID: "d/good", Key: "good"}, {ID: "d/bad", Key: "bad", Scale: 2}, {ID: "d/once", Key: "once"},
	}
	a := New(cfg, zerolog.Nop())
	if err := a.Bind(); err != nil {
		t.Fatal(err)
	}
	address := a.Addr()
	d := &suiteDevice{t: t, path: cfg.Devices[0].Path, open: func() (net.Conn, error) { return open(address) }}
	return adaptertest.Setup{
		Adapter: a, Good: "d/good", Want: gateway.IntValue(7), Bad: "d/bad", Once: "d/once",
		Report: d.report, ReadOnly: "d/good",
	}
}

func TestAPlainListenerIsAnAdapter(t *testing.T) {
	adaptertest.Run(t, func(t *testing.T) adaptertest.Setup {
		return suiteSetup(t, plainConfig(), func(address string) (net.Conn, error) { return dial(t, address).conn, nil })
	})
}

func TestADTLSListenerIsAnAdapter(t *testing.T) {
	adaptertest.Run(t, func(t *testing.T) adaptertest.Setup {
		network := newRoaming(t, 0)
		return suiteSetup(t, secureConfig(newVault("d"), "d"), func(address string) (net.Conn, error) {
			return connect(t, network, address, "d", envKey, time.Second)
		})
	})
}
