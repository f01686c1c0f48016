package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"iothub-gateway/hubsim"
	"iothub-gateway/mapping"
)

// hubsimOptions are the command line of hubsim.
type hubsimOptions struct {
	hubsim.Config
	mapping, deviceCA, tier string
	units                   int
	memory                  bool
	devices                 []string
	linked                  []string // state directories of other simulators
}

func hubsimCommand(std streams) *cobra.Command {
	var o hubsimOptions
	c := &cobra.Command{
		Use:   "hubsim",
		Short: "Run an IoT Hub on this machine, for tests and commissioning without a cloud",
		Long: `hubsim is an IoT Hub on this machine. Devices connect to it with MQTT over TLS or WebSocket and with real
SAS tokens or certificates: this gateway, Microsoft's SDKs unmodified, any MQTT client. It has
telemetry, twins, direct methods and cloud-to-device messages, and a service side over HTTPS. It is as
strict as the real hub, and its log says in one line what a client did wrong.

What to point where:

  your client's trust    the file ca.pem in --dir; it is made at the first start and then kept
  host and port          localhost, 8883; over WebSocket 8443, path /$iothub/websocket
  connection string      --device NAME registers a device and prints the string for its SDK
  any MQTT client        client id NAME, user localhost/NAME/?api-version=2021-04-12,
                         password of gateway hub token NAME
  this gateway           hub: { host: localhost:8883, trust: "file:DIR/ca.pem" } in its mapping

With --mapping it registers every identity of a mapping and writes its key where the mapping's file:
reference points, if no file is there yet.

With --workload-socket it also takes the place of the IoT Edge runtime: a program that is started with the
environment it prints is a module.

While it runs, gateway hub is its service side: who is connected, what arrives, methods, twins. In a browser the
same is at the address that gateway hub page prints. Faults, for instance the next 3 PUBACKs of dev1 lost:

  gateway hub faults arm dev1 --drop-acks 3

docs/hubsim.md has every path, fault and setting; docs/hub-conformance.md what the simulator does,
clause by clause; docs/commissioning.md a whole plant.`,
		Example: `  gateway hubsim --device dev1 --device dev1/camera
  gateway hubsim --mapping mapping.yaml --dir ./hub
  gateway hubsim --in-memory --tier S1
  gateway hubsim --device edge1/gateway --workload-socket /tmp/workload.sock`,
		Args: words(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			return o.run(c.Context(), std, c.Flags().Changed("mqtt"))
		},
	}
	o.flags(c)
	return c
}

func (o *hubsimOptions) flags(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&o.HostName, "host", "", "name of the hub (default: the mapping's, else localhost)")
	f.StringVar(&o.Dir, "dir", filepath.Join(stateDir(), "hubsim"), "directory of its certificates, devices and messages")
	f.BoolVar(&o.memory, "in-memory", false, "keep its state in memory only; on disk there is, while it runs, the note by which gateway hub finds it")
	f.StringVar(&o.MQTT, "mqtt", "127.0.0.1:8883", "address for devices")
	f.StringVar(&o.HTTPS, "https", "127.0.0.1:8443", "address for applications and WebSocket devices")
	f.StringArrayVar(&o.devices, "device", nil, "register this DEVICE or DEVICE/MODULE and print its connection string; may be repeated")
	f.StringVar(&o.WorkloadSocket, "workload-socket", "", "serve IoT Edge's workload API on this unix socket, and print the environment of each module that --device or --mapping names")
	f.StringVar(&o.mapping, "mapping", "", "register the identities of this mapping")
	f.StringVar(&o.deviceCA, "device-ca", "", "PEM file of authorities whose certificates prove devices registered with x509ca")
	f.DurationVar(&o.ExpiryGrace, "token-grace", 10*time.Minute, "how long a connection outlives its token")
	f.StringVar(&o.Provisioning.IDScope, "id-scope", "", "id scope of its provisioning service (default: one that is made at the first start)")
	f.StringArrayVar(&o.linked, "linked-hub", nil, "the --dir of another simulator, to which its provisioning service may assign devices; may be repeated")
	f.StringVar(&o.tier, "tier", "", "throttle and count as this edition does: F1, B1 to B3, S1 to S3 (default: no limits)")
	f.IntVar(&o.units, "units", 1, "units of --tier")
	f.BoolVar(&o.ConnectionStateEvents, "state-events", false, "put an event among the telemetry when a device comes or goes")
	f.BoolVar(&o.RefuseFilters, "refuse-filters", false, "answer an undocumented SUBSCRIBE with 0x80 instead of closing the connection")
}

// run is the command; mqttGiven tells whether the command line says where to listen for MQTT.
func (o *hubsimOptions) run(ctx context.Context, std streams, mqttGiven bool) error {
	plant, err := o.settle(std, mqttGiven)
	if err != nil {
		return err
	}
	hub, err := hubsim.New(o.Config)
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("%w; choose other addresses with --mqtt and --https", err)
	}
	if err != nil {
		return err
	}
	if err := errors.Join(o.link(hub), addDeviceCA(hub, o.deviceCA), o.registerPlant(std.err, hub, plant)); err != nil {
		return err
	}
	strs, err := o.registerDevices(hub)
	if err != nil {
		return err
	}
	remove, err := leaveNote(noteOf(hub, plant))
	if err != nil {
		return err
	}
	defer remove()
	o.show(std.out, hub, strs)
	if err := o.showEnvironments(std, hub, plant); err != nil {
		return err
	}
	return hub.Run(ctx)
}

// settle completes the options with what the mapping, which may be nil, says.
func (o *hubsimOptions) settle(std streams, mqttGiven bool) (plant *mapping.Plant, err error) {
	o.Log = newLogger(std.err, zerolog.InfoLevel)
	if o.memory {
		o.Dir = ""
	}
	if o.ExpiryGrace == 0 {
		o.ExpiryGrace = -1 // none: 0 is the real hub's
	}
	if o.tier != "" {
		if o.Limits, err = hubsim.TierLimits(o.tier, o.units); err != nil {
			return nil, &failure{exitUsage, err}
		}
	}
	if o.mapping == "" {
		return nil, nil
	}
	plant, findings, err := loadMapping(o.mapping)
	if err != nil {
		return nil, err
	}
	if plant == nil {
		return nil, reportFindings(std.err, o.mapping, plant, findings)
	}
	if o.HostName == "" {
		o.HostName = plant.Hub.Host
	}
	port := ""
	if plant.Hub.Port != 0 && isLocal(plant.Hub.Host) {
		port = strconv.Itoa(plant.Hub.Port)
	}
	if by := plant.Hub.Provisioning; by != nil {
		o.Provisioning.IDScope = cmp.Or(o.Provisioning.IDScope, by.Scope)
		if host, own, found := strings.Cut(by.Host, ":"); found && isLocal(host) {
			port = cmp.Or(port, own)
		}
	}
	if port != "" && !mqttGiven {
		o.MQTT = net.JoinHostPort("127.0.0.1", port)
	}
	return plant, nil
}

// linkFile says, in a simulator's directory, how another one's provisioning service reaches it.
const linkFile = "link.json"

// link makes other simulators known to the hub, and leaves in its directory how they may know it.
func (o *hubsimOptions) link(hub *hubsim.Hub) error {
	for _, dir := range o.linked {
		var l hubsim.LinkedHub
		text, err := os.ReadFile(filepath.Join(dir, linkFile))
		if err == nil {
			err = json.Unmarshal(text, &l)
		}
		if err == nil {
			err = hub.LinkHub(l)
		}
		if err != nil {
			return fmt.Errorf("--linked-hub %s: %w; it is written when the simulator with that --dir starts", dir, err)
		}
	}
	if o.Dir == "" {
		return nil
	}
	text, err := json.Marshal(hub.Link())
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(o.Dir, linkFile), text, 0o600)
}

// registerDevices makes the devices of the command line known and returns their connection strings.
func (o *hubsimOptions) registerDevices(hub *hubsim.Hub) (strs []string, err error) {
	for _, name := range o.devices {
		device, module, _ := strings.Cut(name, "/")
		key, err := hub.Register(device, module)
		if err != nil {
			return nil, err
		}
		strs = append(strs, deviceConnectionString(cmp.Or(o.HostName, "localhost"), hub.MQTTAddr(), name, key))
	}
	return strs, nil
}

// showEnvironments prints what the IoT Edge runtime would set for each module that the command line or the
// mapping, which may be nil, names.
func (o *hubsimOptions) showEnvironments(std streams, hub *hubsim.Hub, plant *mapping.Plant) error {
	if o.WorkloadSocket == "" {
		return nil
	}
	names := slices.Clone(o.devices)
	if plant != nil {
		for _, id := range plant.Identities {
			names = append(names, string(id.ID))
		}
	}
	shown := 0
	for _, name := range names {
		device, module, isModule := strings.Cut(name, "/")
		if !isModule {
			continue
		}
		lines, err := hub.Environment(device, module)
		if err != nil {
			return err
		}
		fmt.Fprintf(std.out, "\nEnvironment of %s as a module of IoT Edge:\n%s\n", name, strings.Join(lines, "\n"))
		shown++
	}
	if shown == 0 {
		fmt.Fprintln(std.err, "the workload API is for modules: name one with --device DEVICE/MODULE to see its environment")
	}
	return nil
}

// addDeviceCA makes the authorities in a file known to the hub; "" is none.
func addDeviceCA(hub *hubsim.Hub, path string) error {
	if path == "" {
		return nil
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := hub.AddDeviceCA(text); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// isLocal tells whether a hub's name means this machine.
func isLocal(host string) bool { return host == "localhost" || host == "127.0.0.1" || host == "::1" }
