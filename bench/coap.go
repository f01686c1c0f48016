package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/plgd-dev/go-coap/v3/message"
	"github.com/plgd-dev/go-coap/v3/message/codes"
	"github.com/plgd-dev/go-coap/v3/mux"
	coapnet "github.com/plgd-dev/go-coap/v3/net"
	"github.com/plgd-dev/go-coap/v3/options"
	"github.com/plgd-dev/go-coap/v3/udp"
	"github.com/plgd-dev/go-coap/v3/udp/client"
	"github.com/rs/zerolog"

	gateway "iothub-gateway"
	"iothub-gateway/adapters/coap"
	"iothub-gateway/bridge"
	"iothub-gateway/buffer"
)

// posts is how many CON POSTs a second peers bring from the request to the 2.04, each peer sending the
// next when it has the last one's answer.
func posts(ctx context.Context, address string, peers int) (float64, error) {
	report := []byte(`[{"n":"temp","u":"Cel","v":23.5},{"n":"hum","u":"%RH","v":41}]`)
	var answered atomic.Uint64
	var conns []*client.Conn
	for range peers {
		conn, err := udp.Dial(address)
		if err != nil {
			return 0, err
		}
		defer conn.Close()
		conns = append(conns, conn)
	}
	running, stop := context.WithCancel(ctx)
	defer stop()
	errs := make(chan error, peers)
	var group sync.WaitGroup
	for _, conn := range conns {
		group.Go(func() {
			for running.Err() == nil {
				answer, err := conn.Post(running, "/v1/t", message.AppSenmlJSON, bytes.NewReader(report))
				if err == nil && answer.Code() != codes.Changed {
					err = fmt.Errorf("answer %v", answer.Code())
				}
				if err != nil {
					if running.Err() == nil {
						errs <- err
					}
					return
				}
				conn.ReleaseMessage(answer)
				answered.Add(1)
			}
		})
	}
	if err := pause(ctx, warmup); err != nil {
		return 0, err
	}
	before, start := answered.Load(), time.Now()
	err := pause(ctx, measured)
	result := float64(answered.Load()-before) / time.Since(start).Seconds()
	stop()
	group.Wait()
	close(errs)
	for e := range errs {
		err = errors.Join(err, e)
	}
	return result, err
}

// barePosts is posts against go-coap's own server, whose handler does nothing but answer.
func barePosts(ctx context.Context, peers int) (float64, error) {
	router := mux.NewRouter()
	failed := make(chan error, 1)
	err := router.Handle("/v1/t", mux.HandlerFunc(func(w mux.ResponseWriter, _ *mux.Message) {
		if err := w.SetResponse(codes.Changed, message.TextPlain, nil); err != nil {
			select {
			case failed <- err:
			default:
			}
		}
	}))
	if err != nil {
		return 0, err
	}
	listener, err := coapnet.NewListenUDP("udp4", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	server := udp.NewServer(options.WithMux(router))
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(listener) }()
	result, err := posts(ctx, listener.LocalAddr().String(), peers)
	server.Stop()
	err = errors.Join(err, <-ended, listener.Close())
	select {
	case e := <-failed:
		err = errors.Join(err, e)
	default:
	}
	return result, err
}

// durablePosts is posts against the product's listener: each 2.04 says that the reading is in the
// queue file.
func durablePosts(ctx context.Context, peers int) (result float64, err error) {
	dir, err := os.MkdirTemp(".", "bench-coap-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	queue, err := buffer.Open(buffer.Config{Dir: filepath.Join(dir, "queue")})
	if err != nil {
		return 0, err
	}
	loopback := netip.MustParsePrefix("127.0.0.0/8")
	var points []gateway.Point
	device := coap.Device{Name: "sensor", From: loopback, Path: "/v1/t"}
	for _, name := range []string{"temp", "hum"} {
		id := gateway.PointID("sensor/" + name)
		device.Points = append(device.Points, coap.Point{ID: id, Source: coap.FromSenML, Key: name})
		points = append(points, gateway.Point{ID: id, Identity: "sensor", Field: name, Publish: gateway.Publish{On: gateway.OnPoll}})
	}
	adapter := coap.New(coap.Config{
		Name: "bench", Listen: "127.0.0.1:0", Plain: true, Allow: []netip.Prefix{loopback},
		Limits: coap.Limits{Rate: 1e9}, Devices: []coap.Device{device},
	}, zerolog.Nop())
	if err := adapter.Bind(); err != nil {
		return 0, errors.Join(err, queue.Close())
	}
	up := bridge.NewUp(points, []gateway.Identity{{ID: "sensor"}}, queue)
	stopQueue := background(queue.Run)
	stopAdapter := background(func(ctx context.Context) error { return adapter.Run(ctx, up.Accept) })
	result, err = posts(ctx, adapter.Addr(), peers)
	return result, errors.Join(err, stopAdapter(), stopQueue(), queue.Close())
}
