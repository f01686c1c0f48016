package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
	"github.com/spf13/cobra"

	"iothub-gateway/adapters/modbus"
	"iothub-gateway/mapping"
)

func planCommand(io streams) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "plan [mapping.yaml]",
		Short: "Show every request that polling will make, without touching a device",
		Long: `plan shows for every polled device each poll cycle with its requests on the wire: the registers as they
are numbered there (the first is 0), the points that each request serves, how many registers it reads
in vain, and why it was not joined with the one before it.

Of a serial line it shows the load: how long its characters and the silences between them take, in
percent of each cycle. What the devices take to answer comes on top of it.

Exit code: 0 the mapping is good, 1 it has errors, 2 wrong command line.`,
		Example: "  gateway plan\n  gateway plan plant7.yaml --json",
		Args:    words(cobra.MaximumNArgs(1)),
		RunE: func(_ *cobra.Command, args []string) error {
			path := mappingArgument(args)
			plant, findings, err := loadMapping(path)
			if err != nil {
				return err
			}
			if findings.Errors() > 0 {
				return reportFindings(problems(io.err), path, plant, findings)
			}
			plan := planOf(plant)
			if asJSON {
				return printJSON(io.out, plan)
			}
			showPlan(io.out, plan)
			return nil
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print the plan as a JSON array of links")
	return c
}

// plannedLink is a link with all that will be asked on it.
type plannedLink struct {
	Link     string          `json:"link"`
	Endpoint string          `json:"endpoint"`
	Framing  string          `json:"framing"`
	Serial   string          `json:"serial,omitempty"`
	Load     *float64        `json:"load_percent,omitempty"` // of a serial line
	Requests float64         `json:"requests_per_second"`
	Devices  []plannedDevice `json:"devices"`
}

type plannedDevice struct {
	Device string         `json:"device"`
	Unit   uint8          `json:"unit"`
	Cycles []plannedCycle `json:"cycles"`
}

// plannedCycle is what is asked when these periods meet.
type plannedCycle struct {
	Periods   []string         `json:"periods"`
	PerSecond float64          `json:"per_second"`
	Airtime   float64          `json:"airtime_ms,omitempty"`
	Load      *float64         `json:"load_percent,omitempty"` // airtime of the shortest period
	Requests  []plannedRequest `json:"requests"`
}

type plannedRequest struct {
	Function int      `json:"function"`
	Table    string   `json:"table"`
	First    int      `json:"first"`
	Quantity int      `json:"quantity"`
	Points   []string `json:"points"`
	InVain   int      `json:"in_vain"`
	Apart    string   `json:"apart,omitempty"`
	Airtime  float64  `json:"airtime_ms,omitempty"`
}

func planOf(plant *mapping.Plant) []plannedLink {
	links := []plannedLink{}
	for _, link := range plant.Links {
		row := plannedLink{Link: link.Name, Endpoint: link.Address, Framing: link.Framing.String()}
		if link.Serial != nil {
			row.Serial, row.Load = link.Serial.String(), percent(modbus.Load(link))
		}
		for _, dev := range link.Devices {
			device := plannedDevice{Device: dev.Name, Unit: dev.Unit}
			for _, cycle := range modbus.Foresee(link, dev) {
				row.Requests += cycle.PerSecond * float64(len(cycle.Requests))
				device.Cycles = append(device.Cycles, planCycle(dev, cycle))
			}
			row.Devices = append(row.Devices, device)
		}
		links = append(links, row)
	}
	return links
}

func planCycle(dev modbus.Device, cycle modbus.PollCycle) plannedCycle {
	row := plannedCycle{PerSecond: cycle.PerSecond, Airtime: inMilliseconds(cycle.Airtime())}
	for _, period := range cycle.Periods {
		if period == 0 {
			row.Periods = append(row.Periods, "startup")
			continue
		}
		row.Periods = append(row.Periods, briefly(period))
	}
	if every := cycle.Every(); every > 0 && cycle.PerSecond > 0 && row.Airtime > 0 {
		row.Load = percent(cycle.Airtime().Seconds() / every.Seconds())
	}
	for _, r := range cycle.Requests {
		request := plannedRequest{
			Function: int(r.Table), Table: r.Table.String(), First: int(r.Start), Quantity: r.Quantity,
			InVain: r.InVain, Apart: r.Apart, Airtime: inMilliseconds(r.Airtime),
		}
		for _, i := range r.Points {
			_, name, _ := strings.Cut(string(dev.Points[i].ID), "/")
			request.Points = append(request.Points, name)
		}
		row.Requests = append(row.Requests, request)
	}
	return row
}

// briefly is 1h, 5m or 90s where Go says 1h0m0s.
func briefly(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

func percent(part float64) *float64 {
	part *= 100
	return &part
}

func inMilliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func showPlan(w io.Writer, links []plannedLink) {
	if len(links) == 0 {
		fmt.Fprintln(w, "nothing is polled: every device reports by itself")
		return
	}
	fmt.Fprint(w, "registers and bits are numbered as on the wire: the first is 0\n\n")
	for _, link := range links {
		line := ""
		if link.Load != nil {
			line = fmt.Sprintf(" at %s; load %.1f %% of the line", link.Serial, *link.Load)
		}
		fmt.Fprintf(w, "link %s: %s, %s%s; %.3g requests a second\n", link.Link, link.Endpoint, link.Framing, line, link.Requests)
		for _, device := range link.Devices {
			for _, cycle := range device.Cycles {
				fmt.Fprintf(w, "\n  %s, unit %d, %s: %s\n", device.Device, device.Unit, when(cycle), effort(cycle))
				showRequests(w, cycle)
			}
		}
		fmt.Fprintln(w)
	}
}

// when says at which ticks a cycle runs.
func when(c plannedCycle) string {
	switch {
	case c.PerSecond == 0:
		return "after the start"
	case len(c.Periods) > 1:
		return "when " + strings.Join(c.Periods, " and ") + " meet"
	}
	return "every " + c.Periods[0]
}

func effort(c plannedCycle) string {
	line := count(len(c.Requests), "request")
	if c.Airtime > 0 {
		line += fmt.Sprintf(", %.4g ms on the line", c.Airtime)
	}
	if c.Load != nil {
		line += fmt.Sprintf(", %.1f %% of the cycle", *c.Load)
	}
	return line
}

func showRequests(w io.Writer, c plannedCycle) {
	heading := []any{"", "request", "points", "in vain", "why not joined with the one above"}
	if c.Airtime > 0 {
		heading = slices.Insert(heading, 4, any("ms"))
	}
	t := newTable(w, heading...)
	for _, r := range c.Requests {
		place := fmt.Sprintf("FC %d %s %d", r.Function, r.Table, r.First)
		if r.Quantity > 1 {
			place += fmt.Sprintf("..%d", r.First+r.Quantity-1)
		}
		row := table.Row{"  ", place, strings.Join(r.Points, " "), r.InVain, r.Apart}
		if c.Airtime > 0 {
			row = slices.Insert(row, 4, any(fmt.Sprintf("%.4g", r.Airtime)))
		}
		t.AppendRow(row)
	}
	t.SetColumnConfigs([]table.ColumnConfig{{Name: "points", WidthMax: 60, WidthMaxEnforcer: text.WrapSoft}})
	t.Render()
}
