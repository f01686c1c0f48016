package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	gateway "iothub-gateway"
	"iothub-gateway/devsim"
	"iothub-gateway/hubsim"
	"iothub-gateway/identity"
	"iothub-gateway/mapping"
)

func demoCommand(io streams) *cobra.Command {
	var o demoOptions
	c := &cobra.Command{
		Use:   "demo [mapping.yaml]",
		Short: "Watch field data arrive in a hub, with no cloud and no hardware",
		Long: `demo runs the whole chain of a mapping on this machine: simulated field devices, the gateway with a
real queue file, and a simulated IoT Hub, over real sockets and real TLS on loopback. Only the
endpoints, the hub's certificate and the keys of the mapping are replaced, in memory; a table says so.

Every message that arrives at the hub is shown on one line. Ctrl-C stops cleanly and shows what was
read, delivered, lost and repeated.

Without an argument it takes mapping.yaml of this directory, or else the example that ships with it.

Exit code: 0 nothing was lost and the direct method worked, 1 otherwise, 2 wrong command line.`,
		Example: "  gateway demo\n  gateway demo --for 20s --json",
		Args:    words(cobra.MaximumNArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) > 0 {
				o.mapping = args[0]
			}
			return runDemo(c.Context(), io, o)
		},
	}
	c.Flags().DurationVar(&o.length, "for", 0, "end after this long (0: at Ctrl-C)")
	c.Flags().BoolVar(&o.json, "json", false, "print only the summary, as one JSON object")
	c.Flags().Int64Var(&o.seed, "seed", 1, "seed of the simulated values")
	return c
}

type demoOptions struct {
	mapping string
	length  time.Duration
	json    bool
	seed    int64
}

// drainTime is how long the demo's end waits for the queue to run empty.
const drainTime = 10 * time.Second

// demo is one run of it.
type demo struct {
	io      streams
	options demoOptions
	plant   *mapping.Plant
	hub     *hubsim.Hub
	devices *devsim.Sim
	sensors *devsim.Sensors
	service *service
	tasks   []task // of the gateway: control socket and supervisor
	dir     string

	// The watcher writes these; they are read after it has ended.
	tally  *tally
	first  time.Time
	called *methodCall
}

func runDemo(ctx context.Context, io streams, o demoOptions) error {
	if o.length > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, o.length)
		defer cancel()
	}
	plant, name, err := demoPlant(io.err, o.mapping)
	if err != nil {
		return err
	}
	d := &demo{io: io, options: o, plant: plant, tally: newTally()}
	if d.dir, err = os.MkdirTemp("", "iothub-gateway-demo-"); err != nil {
		return err
	}
	defer os.RemoveAll(d.dir)
	if err := d.build(name); err != nil {
		return err
	}
	remove, err := leaveNote(noteOf(d.hub, d.plant))
	if err != nil {
		return errors.Join(err, d.service.Close())
	}
	defer remove()
	err = together(ctx, task{"hub", d.hub.Run}, task{"devices", d.devices.Run}, task{"watcher", d.watch},
		task{"gateway", func(ctx context.Context) error { return d.service.Run(ctx, d.tasks...) }},
		task{"sensors", d.sensors.Run})
	if err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return d.report()
}

// demoPlant loads the mapping that the demo runs.
func demoPlant(w io.Writer, path string) (*mapping.Plant, string, error) {
	if path == "" {
		if _, err := os.Stat(defaultMapping); err == nil {
			path = defaultMapping
		}
	}
	var plant *mapping.Plant
	var findings mapping.Findings
	var err error
	if path == "" {
		path = "the example mapping"
		plant, findings = mapping.Parse(path, gateway.ExampleMapping())
	} else if plant, findings, err = loadMapping(path); err != nil {
		return nil, "", err
	}
	if plant == nil {
		return nil, "", reportFindings(w, path, plant, findings)
	}
	return plant, path, nil
}

// build makes the simulators and the gateway between them, and shows what of the mapping it replaced.
func (d *demo) build(name string) error {
	level := zerolog.WarnLevel
	log := newLogger(d.io.err, level)
	var err error
	// Neither proxy nor gateway nor provisioning service stands between the two simulators.
	d.plant.Hub = mapping.Hub{Host: cmp.Or(d.plant.Hub.Host, "localhost"), Transport: d.plant.Hub.Transport}
	if d.hub, err = hubsim.New(hubsim.Config{HostName: d.plant.Hub.Host, Log: log}); err != nil {
		return err
	}
	if d.devices, err = devsim.New(devsim.Config{Plant: d.plant, Seed: d.options.seed, Log: log}); err != nil {
		return err
	}
	replaced := newTable(d.progress(), "the mapping says", "the demo uses instead")
	replaced.AppendRow(table.Row{"hub " + d.plant.Hub.Host, "hub simulator on " + d.hub.MQTTAddr() + ", its own certificate"})
	keys := map[gateway.IdentityID]identity.Secret{}
	for _, id := range d.plant.Identities {
		key, err := d.hub.Register(id.ID.Device(), id.ID.Module())
		if err != nil {
			return err
		}
		keys[id.ID] = identity.NewSecret(key)
		replaced.AppendRow(table.Row{fmt.Sprintf("%s of %s: %s", id.Kind, id.ID, cmp.Or(id.Key, "of the runtime")), "a key made by the simulator"})
	}
	for i, link := range d.plant.Links {
		address := d.devices.Addr(link.Name)
		replaced.AppendRow(table.Row{"link " + link.Name + " at " + link.Address, "simulated devices on " + address})
		d.plant.Links[i].Address = address
		if link.TLS == nil {
			continue
		}
		replaced.AppendRow(table.Row{"certificates of link " + link.Name, "made for this run"})
		if link.TLS.Client, err = d.devices.Papers().Client(); err != nil {
			return err
		}
	}
	psks := d.replaceListeners(replaced)
	address := d.hub.MQTTAddr()
	if d.plant.Hub.Transport == "websocket" {
		address = d.hub.HTTPSAddr()
	}
	d.service, err = newService(serviceConfig{
		plant: d.plant, mappingPath: name, stateDir: d.dir, address: func(string, int) string { return address }, roots: d.hub.CAPool(),
		keys:  func(id mapping.Identity) (identity.Secret, error) { return keys[id.ID], nil },
		psk:   func(mapping.Listener) func(string) ([]byte, bool) { return psks.find },
		drain: drainTime, clock: newClock(true), log: log,
	})
	if err != nil {
		return err
	}
	if d.tasks, err = watchTasks(runOptions{runtime: d.dir, health: "off", log: log}, d.service); err != nil {
		return errors.Join(err, d.service.Close())
	}
	d.sensors = devsim.NewSensors(devsim.SensorConfig{
		Plant: d.plant, Seed: d.options.seed, Addr: d.service.listenerAddress, Log: log,
		Key: func(psk string) []byte { key, _ := psks.find(psk); return key },
	})
	fmt.Fprintf(d.progress(), "gateway demo of %s\n\n", name)
	replaced.Render()
	d.hints()
	return nil
}

// demoKeys are the pre-shared keys of one demo.
type demoKeys map[string][]byte

func (k demoKeys) find(psk string) ([]byte, bool) {
	key, ok := k[psk]
	return key, ok
}

// replaceListeners moves the plant's listeners to free ports on loopback and makes keys for their
// devices; it notes both in the table.
func (d *demo) replaceListeners(replaced table.Writer) demoKeys {
	keys := demoKeys{}
	for i := range d.plant.Listeners {
		listener := &d.plant.Listeners[i]
		replaced.AppendRow(table.Row{"listener " + listener.Name + " on " + listener.Listen, "a free port on loopback"})
		listener.Listen = "127.0.0.1:0"
		if !listener.Plain {
			listener.Allow = nil
		}
		for j := range listener.Devices {
			device := &listener.Devices[j]
			if listener.Plain {
				device.From = netip.MustParsePrefix("127.0.0.0/8")
				listener.Allow = []netip.Prefix{device.From}
				continue
			}
			if keys[device.PSK] == nil {
				keys[device.PSK] = []byte(rand.Text())
				replaced.AppendRow(table.Row{"pre-shared key of " + device.PSK, "a key made for this run"})
			}
		}
	}
	return keys
}

// progress is where a person follows the demo; nowhere if a script asked for JSON.
func (d *demo) progress() io.Writer {
	if d.options.json {
		return io.Discard
	}
	return d.io.out
}

// hints says what to try in a second terminal.
func (d *demo) hints() {
	w := d.progress()
	fmt.Fprintln(w)
	if m, value, ok := sampleCall(d.plant); ok {
		payload, _ := json.Marshal(map[string]gateway.Value{m.From: value})
		fmt.Fprintf(w, "From a second terminal:  gateway hub call %s %s '%s'\n", m.Identity, m.Name, payload)
	}
	fmt.Fprintf(w, "                         gateway status --runtime-dir %s\n", d.dir)
	fmt.Fprintln(w, "                         gateway hub page     the address of the simulated hub's page, for a browser")
	if d.options.length == 0 {
		fmt.Fprintln(w, "Stop with Ctrl-C.")
	}
	fmt.Fprintln(w)
}

// watch shows what arrives, and calls a method once data flows.
func (d *demo) watch(ctx context.Context) error {
	shown := d.progress()
	width := 0
	for _, id := range d.plant.Identities {
		width = max(width, len(id.ID))
	}
	for m := range d.hub.Watch(ctx, 0) {
		d.tally.take(m)
		if d.first.IsZero() {
			d.first = m.Enqueued
			fmt.Fprintf(shown, "first message at the hub %.2f s after the start\n", d.first.Sub(d.io.started).Seconds())
		}
		fmt.Fprintln(shown, messageLine(m, width))
		if d.called == nil {
			d.called = d.callMethod(ctx)
			if d.called != nil {
				fmt.Fprintln(shown, d.called)
			}
		}
	}
	return nil
}
