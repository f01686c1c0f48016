package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"iothub-gateway/identity"
	"iothub-gateway/internal/control"
	"iothub-gateway/internal/status"
	"iothub-gateway/mapping"
)

func runCommand(io streams) *cobra.Command {
	var state, runtime, level, health string
	var trustClock bool
	c := &cobra.Command{
		Use:   "run [mapping.yaml]",
		Short: "Run the gateway of a mapping until it is stopped",
		Long: `run reads the mapping, opens the queue and works until Ctrl-C or SIGTERM: it polls the devices,
delivers to the hub and answers direct methods. The hub need not be reachable: readings wait in the
queue, which survives crashes and power cuts.

It refuses to start if the mapping has any error or a key is missing, and says all of them at once.
SIGHUP, or 'gateway reload', makes it take over a changed mapping without a restart; one that has an error is
refused, and the gateway runs on with the mapping before.
Stopping finishes what is in flight; nothing is lost and nothing is sent twice.`,
		Example: "  gateway run\n  gateway run /etc/iothub-gateway/mapping.yaml --state-dir /var/lib/iothub-gateway",
		Args:    words(cobra.MaximumNArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			if health == "" {
				return &failure{exitUsage, errors.New("--health needs an address such as 127.0.0.1:8080, or off")}
			}
			parsed, err := zerolog.ParseLevel(level)
			if err != nil {
				return &failure{exitUsage, fmt.Errorf("--log-level %q: use debug, info, warn or error", level)}
			}
			return runGateway(c.Context(), io, runOptions{mappingArgument(args), state, runtime, health, trustClock, newLogger(io.err, parsed)})
		},
	}
	c.Flags().StringVar(&state, "state-dir", stateDir(), "directory of the queue")
	c.Flags().StringVar(&runtime, "runtime-dir", runtimeDir(), "directory of the control socket")
	c.Flags().StringVar(&health, "health", "127.0.0.1:8080", "address of the page /healthz, or off")
	c.Flags().BoolVar(&trustClock, "trust-clock", false, "take the machine's clock for right although nothing here keeps it so (no chrony, no systemd-timesyncd)")
	c.Flags().StringVar(&level, "log-level", "info", "debug, info, warn or error")
	return c
}

type runOptions struct {
	mapping, state, runtime, health string
	trustClock                      bool
	log                             zerolog.Logger
}

// loaded is a mapping as it was read, with what it needs from other files.
type loaded struct {
	plant    *mapping.Plant   // nil if a finding is an error
	findings mapping.Findings // about the mapping itself
	missing  mapping.Findings // keys without which it cannot run
	roots    *x509.CertPool   // whom to trust; nil: the system's
}

// load reads the mapping at path and what it names. The error is about files, and joins all that cannot be read.
func load(path string) (l loaded, err error) {
	if l.plant, l.findings, err = loadMapping(path); err != nil || l.plant == nil {
		return l, err
	}
	secrets := secretSource(path)
	l.missing = keysMissing(l.plant, secrets)
	l.roots, err = trustedRoots(l.plant.Hub, filepath.Dir(path))
	return l, errors.Join(err, secureLinks(l.plant, secrets))
}

func runGateway(ctx context.Context, io streams, o runOptions) error {
	hangup := make(chan os.Signal, 1) // one that comes while another reload waits asks for nothing more
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)
	l, err := load(o.mapping)
	if l.findings.Errors() > 0 {
		return reportFindings(problems(io.err), o.mapping, l.plant, l.findings)
	}
	for _, warning := range l.findings {
		o.log.Warn().Str("at", fmt.Sprintf("%s:%d:%d", warning.File, warning.Line, warning.Column)).Msg(warning.Code + " " + warning.Message)
	}
	if len(l.missing) > 0 {
		for _, f := range l.missing {
			fmt.Fprintln(problems(io.err), f)
		}
		err = errors.Join(err, fmt.Errorf("%s cannot be used, see above; nothing was started", count(len(l.missing), "key")))
	}
	if err != nil {
		return err
	}
	secrets := secretSource(o.mapping)
	service, err := newService(serviceConfig{
		plant: l.plant, mappingPath: o.mapping, stateDir: o.state, roots: l.roots, clock: newClock(o.trustClock), log: o.log,
		secrets: secrets, load: func() (loaded, error) { return load(o.mapping) },
		psk: func(l mapping.Listener) func(string) ([]byte, bool) { return secrets.PSK(l.PSKDir) },
	})
	if err != nil {
		return err
	}
	tasks, err := watchTasks(o, service)
	if err != nil {
		return errors.Join(err, service.Close())
	}
	tasks = append(tasks, reloadTask(hangup, service))
	o.log.Info().Str("mapping", o.mapping).Str("hub", l.plant.Hub.Host).Int("identities", len(l.plant.Identities)).
		Int("points", len(l.plant.Points)).Msg("gateway started")
	err = service.Run(ctx, tasks...)
	o.log.Info().Msg("gateway stopped")
	return err
}

// reloadTask reloads the mapping at each signal.
func reloadTask(hangup <-chan os.Signal, s *service) task {
	return task{"signals", func(ctx context.Context) error {
		for {
			select {
			case <-hangup:
				_, _ = s.Reload(ctx, false) // the log has said what became of it
			case <-ctx.Done():
				return nil
			}
		}
	}}
}

// keysMissing are the findings about keys without which the gateway cannot start; those of sensors may
// come later.
func keysMissing(plant *mapping.Plant, secrets identity.Source) (missing mapping.Findings) {
	for _, f := range mapping.CheckSecrets(plant, secrets) {
		if !f.Warning() || f.Code == codeMissingSecret {
			missing = append(missing, f)
		}
	}
	return missing
}

// codeMissingSecret is what check warns of and run cannot do without.
const codeMissingSecret = "W052"

// watchTasks are those that let people and machines look at the service.
func watchTasks(o runOptions, s *service) ([]task, error) {
	supervisor := newSupervisor(s, o.log)
	socket, err := controlTask(filepath.Join(o.runtime, control.SocketName), s, supervisor.Health)
	if err != nil {
		return nil, err
	}
	tasks := []task{socket}
	if o.health != "off" {
		listener, err := status.Listen(o.health)
		if err != nil {
			return nil, err
		}
		tasks = append(tasks, task{"health page", func(ctx context.Context) error {
			return control.Serve(ctx, listener, status.Handler(supervisor.Health))
		}})
	}
	return append(tasks, task{"supervisor", supervisor.Run}), nil
}

// controlTask serves the control socket.
func controlTask(path string, s *service, health func() status.Health) (task, error) {
	listener, err := control.Listen(path)
	if err != nil {
		return task{}, err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) {
		page, h := s.Status(), health()
		page.State, page.Reasons = string(h.State), h.Reasons
		control.WriteJSON(w, page)
	})
	mux.Handle("GET /healthz", status.Handler(health))
	serveQueue(mux, s.access())
	servePoints(mux, s.points())
	serveReload(mux, s.Reload)
	return task{"control socket", func(ctx context.Context) error { return control.Serve(ctx, listener, mux) }}, nil
}
