package main

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	gateway "iothub-gateway"
	"iothub-gateway/buffer"
	"iothub-gateway/identity"
	"iothub-gateway/internal/dial"
	"iothub-gateway/upstream"
)

// childRole tells a child process of this program what to be: clients, "product" or "bare"; servers, "hub"
// or "bare server"; "depth"; or "devices".
const childRole = "BENCH_CHILD"

// idlePlant is what such a child is told on its standard input.
type idlePlant struct {
	Address string
	CA      []byte
	Keys    map[gateway.IdentityID]string
}

// identityMemory is how many bytes one idle connected identity costs a process that holds n of them;
// the hub is in another process.
func identityMemory(ctx context.Context, role string, n int) (bytesEach float64, err error) {
	hub, _, stopHub, err := newHub(n)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, stopHub()) }()
	plant := idlePlant{Address: hub.MQTTAddr(), CA: hub.CAPEM(), Keys: map[gateway.IdentityID]string{}}
	for i := range n {
		id := gateway.IdentityID(fmt.Sprintf("dev%04d", i))
		if plant.Keys[id], err = hub.Register(string(id), ""); err != nil {
			return 0, err
		}
	}
	input, err := json.Marshal(plant)
	if err != nil {
		return 0, err
	}
	child := exec.CommandContext(ctx, os.Args[0])
	child.Env = append(os.Environ(), childRole+"="+role)
	child.Stdin, child.Stderr = bytes.NewReader(input), os.Stderr
	output, err := child.Output()
	if err != nil {
		return 0, fmt.Errorf("child %s: %w", role, err)
	}
	return strconv.ParseFloat(strings.TrimSpace(string(output)), 64)
}

// runChild plays one role.
func runChild(ctx context.Context, role string, in io.Reader, out io.Writer) error {
	switch role {
	case deepRole:
		return runDeep(ctx, out)
	case "hub":
		return serveHub(json.NewDecoder(in), json.NewEncoder(out))
	case "bare server":
		return serveBare(json.NewDecoder(in), json.NewEncoder(out))
	case devicesRole:
		return serveDevices(in, out)
	}
	return holdIdle(ctx, role, in, out)
}

// Both sides are measured at the same age: the library looks around every 5 s on goroutines whose stacks grow
// by it one after the other and never shrink again.
const (
	idleRate = 200 // connections a second
	idleRest = 15 * time.Second
)

// holdIdle connects every identity, waits until nothing moves, and prints the bytes of each.
func holdIdle(ctx context.Context, role string, in io.Reader, out io.Writer) error {
	var plant idlePlant
	if err := json.NewDecoder(in).Decode(&plant); err != nil {
		return err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(plant.CA)
	var accounts []account
	for id, key := range plant.Keys {
		sas, err := identity.NewSAS("localhost", id, identity.NewSecret(key), time.Hour)
		if err != nil {
			return err
		}
		accounts = append(accounts, account{id, sas})
	}
	hold := holdBare
	if role == "product" {
		hold = holdProduct
	}
	before := residentBytes()
	release, err := hold(ctx, dial.Config{
		Address: plant.Address, ServerName: "localhost", Roots: roots, WriteTimeout: upstream.DefaultWriteTimeout, MaxPacket: 320 * 1024,
	}, accounts)
	if err != nil {
		return err
	}
	if err := pause(ctx, idleRest); err != nil {
		return err
	}
	after := residentBytes()
	fmt.Fprintln(out, float64(after-before)/float64(len(accounts)))
	return release()
}

func holdProduct(ctx context.Context, hub dial.Config, accounts []account) (release func() error, err error) {
	dir, err := os.MkdirTemp(".", "bench-idle-")
	if err != nil {
		return nil, err
	}
	queue, err := buffer.Open(buffer.Config{Dir: filepath.Join(dir, "queue")})
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	rig := startRig(dir, queue, accounts, rigOptions{
		open: func(ctx context.Context, _ identity.Login) (*dial.Conn, error) { return dial.Hub(ctx, hub) },
		rate: idleRate, // the product's own pace is 20
	})
	return rig.close, rig.connected(ctx)
}

func holdBare(ctx context.Context, hub dial.Config, accounts []account) (release func() error, err error) {
	clients, err := connectBare(ctx, hub, accounts, idleRate)
	return func() error {
		for _, c := range clients {
			c.Disconnect(0)
		}
		return nil
	}, err
}

// residentBytes is what the process holds after everything unused has been given back: the runtime
// halves an unused stack with each collection, as it does by itself every two minutes when idle.
func residentBytes() int64 {
	for range 4 {
		debug.FreeOSMemory()
	}
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(text))
	pages, err := strconv.ParseInt(fields[1], 10, 64)
	if err != nil {
		return 0
	}
	return pages * int64(os.Getpagesize())
}
