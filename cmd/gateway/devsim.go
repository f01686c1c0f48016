package main

import (
	"context"
	"net"
	"net/http"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"iothub-gateway/devsim"
	"iothub-gateway/mapping"
)

func devsimCommand(io streams) *cobra.Command {
	var cfg devsim.Config
	var dials string
	c := &cobra.Command{
		Use:   "devsim [mapping.yaml]",
		Short: "Run the field devices of a mapping as simulators",
		Long: `devsim serves every Modbus link of a mapping on this machine, with every point in its register: slow
sines with noise, counters that grow, switches that toggle, set-points that keep what is written. The
same seed gives the same values.

Dials make a device misbehave, over HTTP while it runs:

  curl -X POST http://127.0.0.1:8502/links/LINK/units/1 -d '{"mute": true}'
  curl -X POST http://127.0.0.1:8502/links/LINK/units/1 -d '{"exception": 2}'
  curl -X POST http://127.0.0.1:8502/links/LINK/units/1 -d '{"delay": "200ms"}'
  curl -X PUT  http://127.0.0.1:8502/points/boiler/flow_temp -d '{"value": 71.5}'`,
		Args: words(cobra.MaximumNArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			path := mappingArgument(args)
			plant, findings, err := mapping.Load(path)
			if err != nil {
				return err
			}
			if plant == nil {
				return reportFindings(io.err, path, plant, findings)
			}
			cfg.Plant, cfg.Log = plant, newLogger(io.err, zerolog.InfoLevel)
			sim, err := devsim.New(cfg)
			if err != nil {
				return err
			}
			t := newTable(io.out, "link", "mapping says", "simulated on")
			for _, link := range plant.Links {
				t.AppendRow(table.Row{link.Name, link.Address, sim.Addr(link.Name)})
			}
			t.Render()
			return together(c.Context(), task{"devices", sim.Run}, task{"dials", serveHTTP(dials, sim.Handler())})
		},
	}
	c.Flags().Int64Var(&cfg.Seed, "seed", 1, "seed of the values")
	c.Flags().StringVar(&cfg.Listen, "listen", "127.0.0.1", "address to listen on")
	c.Flags().BoolVar(&cfg.Fixed, "mapping-ports", false, "listen on the mapping's own port numbers instead of free ones")
	c.Flags().StringVar(&dials, "dials", "127.0.0.1:8502", "address of the dials")
	return c
}

// serveHTTP serves handler on address until its context ends.
func serveHTTP(address string, handler http.Handler) func(context.Context) error {
	return func(ctx context.Context) error {
		listener, err := net.Listen("tcp", address)
		if err != nil {
			return err
		}
		server := &http.Server{Handler: handler, ReadHeaderTimeout: 5 * time.Second}
		stop := context.AfterFunc(ctx, func() { _ = server.Close() })
		defer stop()
		if err := server.Serve(listener); err != http.ErrServerClosed {
			return err
		}
		return nil
	}
}
