package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/spf13/cobra"

	"iothub-gateway/internal/control"
)

// pointOptions are the flags of read and write.
type pointOptions struct {
	mapping, runtime string
	asJSON, yes      bool
}

func (o *pointOptions) flags(c *cobra.Command) {
	c.Flags().StringVarP(&o.mapping, "mapping", "m", defaultMapping, "mapping that names the point, if no gateway runs")
	c.Flags().StringVar(&o.runtime, "runtime-dir", runtimeDir(), "directory of the control socket")
	c.Flags().BoolVar(&o.asJSON, "json", false, "print JSON for programs")
}

func readCommand(io streams) *cobra.Command {
	o := &pointOptions{}
	c := &cobra.Command{
		Use:   "read DEVICE/POINT...",
		Short: "Read points from their devices now",
		Long: `read asks the devices of the points now and shows what they answer, scaled as the mapping says. A running
gateway is asked over its control socket, so that a serial port or the one connection of a device has one
user only. If none runs in --runtime-dir, the devices are asked directly, and a line on standard error says so.

Exit code: 0 every point has a value, 1 one has none, 2 wrong command line.`,
		Example: "  gateway read boiler/flow_temp\n  gateway read boiler/flow_temp boiler/setpoint --mapping plant7.yaml --json",
		Args:    words(cobra.MinimumNArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			access, err := o.access(c.Context(), io, args)
			if err != nil {
				return err
			}
			defer access.close()
			readings, err := access.read(c.Context(), args)
			if err != nil {
				return err
			}
			return showReadings(io, readings, o.asJSON)
		},
	}
	o.flags(c)
	return c
}

// showReadings prints readings and fails if one has no value.
func showReadings(io streams, readings []control.Reading, asJSON bool) error {
	var failed error
	for _, r := range readings {
		if r.Error != "" {
			failed = &failure{code: exitFailed}
		}
	}
	if asJSON {
		return errors.Join(printJSON(io.out, readings), failed)
	}
	t := newTable(io.out, "point", "value", "unit", "error")
	for _, r := range readings {
		t.AppendRow(table.Row{r.Point, shown(r.Value), r.Unit, r.Error})
	}
	t.Render()
	return failed
}

func writeCommand(io streams) *cobra.Command {
	o := &pointOptions{}
	c := &cobra.Command{
		Use:   "write DEVICE/POINT VALUE",
		Short: "Write a point, after asking",
		Long: `write shows what the point reads now, asks, and writes it. Only points with write in the mapping can be
written, within their limits, as by a direct method of the cloud; and it counts as done when the mapping's
confirm is met. A running gateway is asked over its control socket; if none runs in --runtime-dir, the device
is written directly, and a line on standard error says so.

Exit code: 0 done and confirmed, 1 not done, 2 wrong command line, 3 sent but not confirmed: the device may
have executed it.`,
		Example: "  gateway write boiler/setpoint 65\n  gateway write boiler/offset -2.5\n  gateway write boiler/mode auto --yes",
		Args:    words(cobra.ExactArgs(2)),
		RunE: func(c *cobra.Command, args []string) error {
			args[1] = strings.TrimPrefix(args[1], negativeMark)
			access, err := o.access(c.Context(), io, args[:1])
			if err != nil {
				return err
			}
			defer access.close()
			if !o.yes {
				readings, err := access.read(c.Context(), args[:1])
				if err != nil {
					return err
				}
				if readings[0].Takes == "" {
					return notWritable(args[0])
				}
				if err := confirm(io, writeQuestion(readings[0], args[1])); err != nil {
					return err
				}
			}
			reply, err := access.write(c.Context(), control.WriteRequest{Point: args[0], Value: args[1]})
			if err != nil {
				return err
			}
			return showWritten(io, args, reply, o.asJSON)
		},
	}
	o.flags(c)
	c.Flags().BoolVar(&o.yes, "yes", false, "do not ask")
	return c
}

// negativeMark stands before a number that would else look like flags. No argument of a program can contain it.
const negativeMark = "\x00"

// negativeNumber marks the number of "write DEVICE/POINT -5".
func negativeNumber(args []string) []string {
	if len(args) == 0 || args[0] != "write" {
		return args
	}
	args = slices.Clone(args)
	for i, a := range args {
		if _, err := strconv.ParseFloat(a, 64); err == nil && strings.HasPrefix(a, "-") {
			args[i] = negativeMark + a
		}
	}
	return args
}

// writeQuestion says what is about to happen.
func writeQuestion(now control.Reading, value string) string {
	unit := ""
	if now.Unit != "" {
		unit = " " + now.Unit
	}
	if now.Error != "" {
		return fmt.Sprintf("%s (%s) cannot be read now: %s. This writes %s%s to it.", now.Point, now.Takes, now.Error, value, unit)
	}
	return fmt.Sprintf("%s (%s) is %s%s. This writes %s%s to it.", now.Point, now.Takes, shown(now.Value), unit, value, unit)
}

// showWritten says how a write ended.
func showWritten(io streams, args []string, reply control.WriteReply, asJSON bool) error {
	var why struct{ Error, Code, Confirmed string }
	if err := json.Unmarshal(reply.Body, &why); err != nil {
		return fmt.Errorf("%s: the gateway's answer is no JSON: %w", args[0], err)
	}
	var failed *failure
	switch {
	case reply.Status == 200:
	case why.Code == "uncertain":
		failed = &failure{exitUncertain, errors.New(why.Error)}
	default:
		failed = &failure{exitFailed, errors.New(why.Error)}
	}
	if asJSON {
		fmt.Fprintln(io.out, strings.TrimSpace(string(reply.Body)))
		if failed != nil {
			failed.err = nil
		}
	}
	if failed != nil {
		return failed
	}
	switch {
	case asJSON:
	case why.Confirmed == "sent":
		fmt.Fprintf(io.out, "%s was set to %s: the device has answered, nobody has read it back (confirm: sent)\n", args[0], args[1])
	default:
		fmt.Fprintf(io.out, "%s is %s: the device has confirmed it\n", args[0], args[1])
	}
	return nil
}
