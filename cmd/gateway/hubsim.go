package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"iothub-gateway/hubsim"
	"iothub-gateway/mapping"
)

func hubsimCommand(std streams) *cobra.Command {
	var cfg hubsim.Config
	var mappingPath, deviceCA string
	var memory bool
	c := &cobra.Command{
		Use:   "hubsim",
		Short: "Run an IoT Hub on this machine, for tests and commissioning without a cloud",
		Long: `hubsim is an IoT Hub on this machine: devices connect to it with MQTT over TLS or WebSocket and real
SAS tokens, applications call direct methods over HTTPS. It is as strict as the real hub and says in
its log what a client did wrong.

It makes its own certificate authority at the first start; give clients the file ca.pem to trust.
With --mapping it registers every identity of a mapping and writes its key where the mapping's file:
reference points, if no file is there yet.

A gateway on this machine reaches it if its mapping says

  hub: { host: localhost:8883, trust: "file:DIR/ca.pem" }

docs/commissioning.md walks through the whole.`,
		Example: "  gateway hubsim\n  gateway hubsim --mapping mapping.yaml --dir ./hub",
		Args:    words(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			cfg.Log = newLogger(std.err, zerolog.InfoLevel)
			if memory {
				cfg.Dir = ""
			}
			if cfg.ExpiryGrace == 0 {
				cfg.ExpiryGrace = -1 // none: 0 is the real hub's
			}
			var plant *mapping.Plant
			if mappingPath != "" {
				var findings mapping.Findings
				var err error
				if plant, findings, err = loadMapping(mappingPath); err != nil {
					return err
				}
				if plant == nil {
					return reportFindings(std.err, mappingPath, plant, findings)
				}
				if cfg.HostName == "" {
					cfg.HostName = plant.Hub.Host
				}
				if plant.Hub.Port != 0 && isLocal(plant.Hub.Host) && !c.Flags().Changed("mqtt") {
					cfg.MQTT = net.JoinHostPort("127.0.0.1", strconv.Itoa(plant.Hub.Port))
				}
			}
			hub, err := hubsim.New(cfg)
			if errors.Is(err, syscall.EADDRINUSE) {
				return fmt.Errorf("%w; choose other addresses with --mqtt and --https", err)
			}
			if err != nil {
				return err
			}
			if err := errors.Join(addDeviceCA(hub, deviceCA), registerPlant(std.err, hub, plant, mappingPath)); err != nil {
				return err
			}
			remove, err := leaveNote(noteOf(hub))
			if err != nil {
				return err
			}
			defer remove()
			t := newTable(std.out, "what", "where")
			t.AppendRow(table.Row{"name of the hub", cmp.Or(cfg.HostName, "localhost")})
			t.AppendRow(table.Row{"devices connect to", "mqtts://" + hub.MQTTAddr()})
			t.AppendRow(table.Row{"or by WebSocket to", "wss://" + hub.HTTPSAddr() + "/$iothub/websocket"})
			t.AppendRow(table.Row{"applications use", "https://" + hub.HTTPSAddr()})
			if cfg.Dir != "" {
				t.AppendRow(table.Row{"certificate to trust", filepath.Join(cfg.Dir, "ca.pem")})
			}
			t.AppendRow(table.Row{"see what arrives with", "gateway hub messages --follow"})
			t.AppendRow(table.Row{"call a method with", "gateway hub call DEVICE METHOD JSON"})
			t.Render()
			return hub.Run(c.Context())
		},
	}
	c.Flags().StringVar(&cfg.HostName, "host", "", "name of the hub (default: the mapping's, else localhost)")
	c.Flags().StringVar(&cfg.Dir, "dir", filepath.Join(stateDir(), "hubsim"), "directory of its certificates, devices and messages")
	c.Flags().BoolVar(&memory, "in-memory", false, "keep nothing on disk")
	c.Flags().StringVar(&cfg.MQTT, "mqtt", "127.0.0.1:8883", "address for devices")
	c.Flags().StringVar(&cfg.HTTPS, "https", "127.0.0.1:8443", "address for applications and WebSocket devices")
	c.Flags().DurationVar(&cfg.ExpiryGrace, "token-grace", 10*time.Minute, "how long a connection outlives its token")
	c.Flags().StringVar(&deviceCA, "device-ca", "", "PEM file of authorities whose certificates prove devices registered with x509ca")
	c.Flags().StringVar(&mappingPath, "mapping", "", "register the identities of this mapping")
	return c
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

// noteOf says how to reach hub.
func noteOf(hub *hubsim.Hub) simulator {
	return simulator{
		PID: os.Getpid(), URL: "https://" + hub.HTTPSAddr(), MQTT: hub.MQTTAddr(),
		CA: string(hub.CAPEM()), ConnectionString: hub.ServiceConnectionString(),
	}
}

// registerPlant makes every identity of the mapping known to the hub and leaves its key where the
// mapping looks for it. A file that is there already keeps its key, and the hub takes it over.
func registerPlant(w io.Writer, hub *hubsim.Hub, plant *mapping.Plant, mappingPath string) error {
	if plant == nil {
		return nil
	}
	secrets := secretSource(mappingPath)
	for _, id := range plant.Identities {
		device, module := id.ID.Device(), id.ID.Module()
		if key, err := secrets.Resolve(id.Key); err == nil {
			if err := hub.RegisterWithKey(device, module, key.Reveal()); err != nil {
				return err
			}
			continue
		}
		key, err := hub.Register(device, module)
		if err != nil {
			return err
		}
		path, isFile := strings.CutPrefix(string(id.Key), "file:")
		if !isFile {
			fmt.Fprintf(w, "%s is registered, but its key (%s) is not known here and not a file that could be written: to run the gateway against this hub, give it a file: key\n", id.ID, id.Key)
			continue
		}
		if !filepath.IsAbs(path) {
			path = filepath.Join(filepath.Dir(mappingPath), path)
		}
		if err := writeKey(path, key); err != nil {
			return fmt.Errorf("key of %s: %w", id.ID, err)
		}
	}
	return nil
}

// writeKey writes a key that is not there yet, readable by its owner only.
func writeKey(path, key string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if _, err := file.WriteString(key + "\n"); err != nil {
		_ = file.Close()
		return err
	}
	return file.Close()
}
