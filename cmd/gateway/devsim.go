package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"iothub-gateway/devsim"
	"iothub-gateway/identity"
	"iothub-gateway/internal/control"
	"iothub-gateway/mapping"
)

func devsimCommand(io streams) *cobra.Command {
	var o devsimOptions
	c := &cobra.Command{
		Use:   "devsim [mapping.yaml]",
		Short: "Run the field devices of a mapping as simulators",
		Long: `devsim serves every Modbus link of a mapping on this machine, with every point in its register: slow
sines with noise, counters that grow, switches that toggle, set-points that keep what is written. A serial
link becomes a pseudo-terminal that takes the time of the link's baud rate. CoAP devices report to the
mapping's listeners, on this machine; a pre-shared key that is missing in psk_dir is made there. The same
seed gives the same values.

Dials make a device misbehave, over HTTP while it runs:

  curl -X POST http://127.0.0.1:8502/links/LINK/units/1 -d '{"mute": true}'
  curl -X POST http://127.0.0.1:8502/links/LINK/units/1 -d '{"exception": 2}'
  curl -X POST http://127.0.0.1:8502/links/LINK/units/1 -d '{"delay": "200ms"}'
  curl -X PUT  http://127.0.0.1:8502/points/boiler/flow_temp -d '{"value": 71.5}'
  curl -X POST http://127.0.0.1:8502/sensors/env-17 -d '{"mute": true}'

A fault script does it to some requests only, from the start with --faults, or over HTTP; docs/commissioning.md
says what it can do:

  curl -X PUT  http://127.0.0.1:8502/faults -d '{"LINK": [{"do": "late", "after": "1.2s", "chance": 0.01}]}'

What a gateway needs to trust the devices of a link with tls, and to be trusted by them:

  curl http://127.0.0.1:8502/tls/ca.pem http://127.0.0.1:8502/tls/client.pem`,
		Args: words(cobra.MaximumNArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			o.mapping, o.sim.Log = mappingArgument(args), newLogger(io.err, zerolog.InfoLevel)
			return runDevsim(c.Context(), io, o)
		},
	}
	c.Flags().Int64Var(&o.sim.Seed, "seed", 1, "seed of the values")
	c.Flags().StringVar(&o.sim.Listen, "listen", "127.0.0.1", "address to listen on")
	c.Flags().BoolVar(&o.sim.Fixed, "mapping-ports", false, "listen on the mapping's own port numbers and serial paths instead of free ones")
	c.Flags().BoolVar(&o.sim.StrictHoles, "strict-holes", false, "refuse a read of a register that the mapping does not name, instead of answering 0")
	c.Flags().StringVar(&o.faults, "faults", "", "file with the fault script that is played from the start")
	c.Flags().StringVar(&o.dials, "dials", "127.0.0.1:8502", "address of the dials")
	return c
}

type devsimOptions struct {
	mapping, dials, faults string
	sim                    devsim.Config
}

func runDevsim(ctx context.Context, io streams, o devsimOptions) error {
	plant, findings, err := loadMapping(o.mapping)
	if err != nil {
		return err
	}
	if plant == nil {
		return reportFindings(io.err, o.mapping, plant, findings)
	}
	keys, err := sensorKeys(plant, o.mapping)
	if err != nil {
		return err
	}
	if o.sim.Faults, err = faultScript(o.faults); err != nil {
		return err
	}
	dials, err := net.Listen("tcp", o.dials)
	if err != nil {
		return fmt.Errorf("dials: %w; choose another address with --dials", err)
	}
	o.sim.Plant = plant
	sim, err := devsim.New(o.sim)
	if err != nil {
		return errors.Join(err, dials.Close())
	}
	sensors := devsim.NewSensors(devsim.SensorConfig{
		Plant: plant, Seed: o.sim.Seed, Log: o.sim.Log, Key: keys,
		Addr: func(name string) string { return localAddress(plant, name) },
	})
	t := newTable(io.out, "in the mapping", "at", "simulated")
	for _, link := range plant.Links {
		t.AppendRow(table.Row{"link " + link.Name, link.Address, "listens on " + sim.Addr(link.Name)})
	}
	for _, listener := range plant.Listeners {
		t.AppendRow(table.Row{"listener " + listener.Name, listener.Listen, fmt.Sprintf("%s to %s", count(len(listener.Devices), "device")+" reporting", localAddress(plant, listener.Name))})
	}
	t.Render()
	mux := http.NewServeMux()
	mux.Handle("/", sim.Handler())
	mux.Handle("/sensors", sensors.Handler())
	mux.Handle("/sensors/", sensors.Handler())
	return together(ctx, task{"devices", sim.Run}, task{"sensors", sensors.Run},
		task{"dials", func(ctx context.Context) error { return control.Serve(ctx, dials, mux) }})
}

// faultScript reads the script in a file; none without a file.
func faultScript(path string) (devsim.Script, error) {
	if path == "" {
		return nil, nil
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	script, err := devsim.ReadScript(file)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return script, nil
}

// sensorKeys finds the pre-shared keys of the plant's sensors, and makes those that are missing.
func sensorKeys(plant *mapping.Plant, mappingPath string) (func(psk string) []byte, error) {
	secrets := secretSource(mappingPath)
	directories := map[string]string{}
	for _, listener := range plant.Listeners {
		for _, device := range listener.Devices {
			if device.PSK == "" {
				continue
			}
			path := filepath.Join(listener.PSKDir, device.PSK)
			directories[device.PSK] = listener.PSKDir
			if _, err := secrets.Resolve(identity.Ref("file:" + path)); !errors.Is(err, identity.ErrMissing) {
				continue
			}
			if !filepath.IsAbs(path) {
				path = filepath.Join(secrets.Dir, path)
			}
			if err := writeKey(path, rand.Text()); err != nil && !errors.Is(err, fs.ErrExist) {
				return nil, fmt.Errorf("pre-shared key of %s: %w", device.PSK, err)
			}
		}
	}
	return func(psk string) []byte {
		key, _ := secrets.PSK(directories[psk])(psk)
		return key
	}, nil
}

// localAddress is where a listener of the plant is reached from this machine.
func localAddress(plant *mapping.Plant, name string) string {
	for _, listener := range plant.Listeners {
		if listener.Name != name {
			continue
		}
		host, port, err := net.SplitHostPort(listener.Listen)
		if err != nil {
			return listener.Listen
		}
		if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
			host = "127.0.0.1"
		}
		return net.JoinHostPort(host, port)
	}
	return ""
}
