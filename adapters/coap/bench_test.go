package coap

import (
	"bytes"
	"context"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/plgd-dev/go-coap/v3/message"
	"github.com/plgd-dev/go-coap/v3/message/codes"
	"github.com/plgd-dev/go-coap/v3/mux"
	coapnet "github.com/plgd-dev/go-coap/v3/net"
	"github.com/plgd-dev/go-coap/v3/options"
	"github.com/plgd-dev/go-coap/v3/udp"
	"github.com/plgd-dev/go-coap/v3/udp/client"
	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	gateway "iothub-gateway"
)

// BenchmarkPosts compares CON POST -> 2.04 over 64 peers with a bare go-coap server whose handler
// does nothing but answer: in one run, on one machine, with the same clients.
//
//	go test -run '^$' -bench Posts ./adapters/coap
func BenchmarkPosts(b *testing.B) {
	b.Run("bare", func(b *testing.B) { benchPosts(b, bareServer(b)) })
	b.Run("listener", func(b *testing.B) { benchPosts(b, benchListener(b, 0)) })
	b.Run("listener-5ms-disk", func(b *testing.B) { benchPosts(b, benchListener(b, 5*time.Millisecond)) })
}

func benchPosts(b *testing.B, address string) {
	const peers = 64
	body := []byte(`[{"n":"temp","u":"Cel","v":23.5},{"n":"hum","u":"%RH","v":41}]`)
	conns := make([]*client.Conn, peers)
	for i := range conns {
		conn, err := udp.Dial(address)
		if err != nil {
			b.Fatal(err)
		}
		defer conn.Close()
		conns[i] = conn
	}
	work := make(chan struct{})
	var peersDone sync.WaitGroup
	before := cpuTime(b)
	b.ResetTimer()
	for _, conn := range conns {
		peersDone.Go(func() {
			for range work {
				ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
				answer, err := conn.Post(ctx, "/v1/t", message.AppSenmlJSON, bytes.NewReader(body))
				cancel()
				if err != nil {
					b.Error(err)
				} else {
					if answer.Code() != codes.Changed {
						b.Error(answer.Code())
					}
					conn.ReleaseMessage(answer)
				}
			}
		})
	}
	for range b.N {
		work <- struct{}{}
	}
	close(work)
	peersDone.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "posts/s")
	b.ReportMetric(float64((cpuTime(b)-before).Microseconds())/float64(b.N), "cpu-µs/post")
}

// cpuTime is what the process has used: unlike the clock it does not tell what else the machine does.
// The clients' share, the larger one, is the same for every server.
func cpuTime(b *testing.B) time.Duration {
	var used unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &used); err != nil {
		b.Fatal(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

func bareServer(b *testing.B) string {
	router := mux.NewRouter()
	err := router.Handle("/v1/t", mux.HandlerFunc(func(w mux.ResponseWriter, r *mux.Message) {
		if err := w.SetResponse(codes.Changed, message.TextPlain, nil); err != nil {
			b.Error(err)
		}
	}))
	if err != nil {
		b.Fatal(err)
	}
	l, err := coapnet.NewListenUDP("udp4", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	s := udp.NewServer(options.WithMux(router))
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	b.Cleanup(func() {
		s.Stop()
		<-done
	})
	return l.LocalAddr().String()
}

func benchListener(b *testing.B, disk time.Duration) string {
	cfg := Config{Name: "bench", Listen: "127.0.0.1:0", Plain: true, Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}
	cfg.Limits.Rate = 1e9
	cfg.Devices = []Device{{Name: "d", From: netip.MustParsePrefix("127.0.0.1/32"), Path: "/v1/t", Points: []Point{
		{ID: "d/temp", Key: "temp"}, {ID: "d/hum", Key: "hum"},
	}}}
	a := New(cfg, zerolog.Nop())
	if err := a.Bind(); err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- a.Run(ctx, func(ctx context.Context, s []gateway.Sample) error {
			if disk > 0 {
				time.Sleep(disk)
			}
			return nil
		})
	}()
	b.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			b.Error(err)
		}
	})
	return a.Addr()
}
