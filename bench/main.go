package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"runtime/pprof"
	"strconv"

	"iothub-gateway/hubsim"
)

func bareDialer(hub *hubsim.Hub) func(context.Context) (net.Conn, error) {
	d := tls.Dialer{Config: &tls.Config{RootCAs: hub.CAPool(), ServerName: "localhost"}}
	return func(ctx context.Context) (net.Conn, error) { return d.DialContext(ctx, "tcp", hub.MQTTAddr()) }
}

func main() {
	if p := os.Getenv("CPUPROFILE"); p != "" {
		f, _ := os.Create(p)
		pprof.StartCPUProfile(f)
		defer pprof.StopCPUProfile()
	}
	ctx := context.Background()
	for _, arg := range os.Args[1:] {
		n, _ := strconv.Atoi(arg)
		b, err := 1.0, error(nil)
		if os.Getenv("ONLY") != "durable" {
			b, err = bareRate(ctx, n)
		}
		if err != nil {
			panic(err)
		}
		d, err := durableRate(ctx, n)
		if err != nil {
			panic(err)
		}
		fmt.Printf("%d: bare %.0f/s durable %.0f/s ratio %.2f\n", n, b, d, d/b)
	}
}
