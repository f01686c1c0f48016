package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/spf13/cobra"

	"iothub-gateway/hubsim"
)

// faultsElsewhere is what to do about faults at a real hub.
const faultsElsewhere = "send a message with the property AzIoTHub_FaultOperationType to it instead"

func hubFaultsCommand(io streams, o *hubOptions) *cobra.Command {
	c := &cobra.Command{
		Use:   "faults",
		Short: "Make the simulator fail: list, arm and clear its faults",
		Long: `faults sets the dials of the simulator, for one device or for everybody, so that you can see what a client
does about them. They stay until they are used up or cleared.

  gateway hub faults arm dev1 --drop-acks 3       the next 3 PUBACKs are lost
  gateway hub faults arm dev1 --kick              the connection is cut, now
  gateway hub faults arm --everybody --throttle 2
  gateway hub faults list
  gateway hub faults clear`,
	}
	c.AddCommand(faultsListCommand(io, o), faultsArmCommand(io, o), faultsClearCommand(o))
	return group(c)
}

func faultsListCommand(io streams, o *hubOptions) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "Show which faults are armed, and what is left of them",
		Args:  words(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			var armed []hubsim.Faults
			if err := o.faults(c, http.MethodGet, "", nil, &armed); err != nil {
				return err
			}
			if o.asJSON {
				return printJSON(io.out, armed)
			}
			return showFaults(io.out, armed)
		},
	}
}

// showFaults prints a line for each fault.
func showFaults(w io.Writer, armed []hubsim.Faults) error {
	if len(armed) == 0 {
		fmt.Fprintln(w, "no fault is armed")
		return nil
	}
	t := newTable(w, "identity", "fault", "left")
	for _, f := range armed {
		text, err := json.Marshal(f)
		if err != nil {
			return err
		}
		var dials map[string]json.RawMessage
		if err := json.Unmarshal(text, &dials); err != nil {
			return err
		}
		delete(dials, "identity")
		for _, name := range slices.Sorted(maps.Keys(dials)) {
			t.AppendRow(table.Row{cmp.Or(f.Identity, "everybody"), name, shown(dials[name])})
		}
	}
	t.Render()
	return nil
}

// armOptions are the flags of faults arm, in the shape that the simulator takes.
type armOptions struct {
	hubsim.Faults
	everybody              bool
	dropAcks, closeOn      int
	delay                  time.Duration
	throttle               float64
	quota                  bool
	refuse, twins          int
	registrations          int
	refuseCode, failStatus int
}

func faultsArmCommand(io streams, o *hubOptions) *cobra.Command {
	var a armOptions
	c := &cobra.Command{
		Use:   "arm DEVICE[/MODULE] | --everybody",
		Short: "Arm one or more faults for one identity or for all",
		Long: `arm sets dials of the simulator. What a client sees of each stands in docs/hubsim.md. A dial that is not
named stays as it is; 0 (of --throttle: -1) sets one back.

Exit code: 0 armed, 1 refused, 2 wrong command line.`,
		Example: `  gateway hub faults arm dev1 --refuse-connects 2 --code 3
  gateway hub faults arm dev1 --delay-acks 2s --drop-acks 3
  gateway hub faults arm dev1 --fail-twins 2 --status 429
  gateway hub faults arm --everybody --expire-tokens`,
		Args:              words(cobra.MaximumNArgs(1)),
		ValidArgsFunction: completeIdentities(o, nil),
		RunE: func(c *cobra.Command, args []string) error {
			if a.everybody == (len(args) == 1) {
				return &failure{exitUsage, errors.New("name a device, or say --everybody")}
			}
			a.Identity = strings.Join(args, "")
			if !a.settle(c.Flags().Changed) {
				return &failure{exitUsage, fmt.Errorf("which fault? see '%s --help'", c.CommandPath())}
			}
			var answer struct {
				Kicked bool `json:"kicked"`
			}
			if err := o.faults(c, http.MethodPost, "", a.Faults, &answer); err != nil {
				return err
			}
			if o.asJSON {
				return printJSON(io.out, answer)
			}
			if (a.Kick || a.ExpireTokens) && !answer.Kicked {
				fmt.Fprintln(io.err, "there was no connection to cut")
			}
			return nil
		},
	}
	a.flags(c)
	return c
}

func (a *armOptions) flags(c *cobra.Command) {
	f := c.Flags()
	f.BoolVar(&a.everybody, "everybody", false, "instead of one device")
	f.IntVar(&a.dropAcks, "drop-acks", 0, "the next N messages are stored, and their PUBACKs are lost")
	f.DurationVar(&a.delay, "delay-acks", 0, "every PUBACK comes so much later")
	f.IntVar(&a.refuse, "refuse-connects", 0, "the next N connections are refused")
	f.IntVar(&a.refuseCode, "code", 3, "with this CONNACK code, 1 to 5; 0 closes without one")
	f.IntVar(&a.closeOn, "close-on-publish", 0, "the Nth message from now closes the connection, unstored")
	f.Float64Var(&a.throttle, "throttle", 0, "so many operations a second; 0 rejects all, -1 ends it")
	f.BoolVar(&a.quota, "exhaust-quota", false, "the daily quota is used up; =false ends it")
	f.IntVar(&a.twins, "fail-twins", 0, "the next N twin requests fail")
	f.IntVar(&a.registrations, "fail-registrations", 0, "the next N requests of this registration id to the provisioning service fail")
	f.IntVar(&a.failStatus, "status", 429, "with this status, 400 to 599")
	f.BoolVar(&a.CutMidPacket, "cut-mid-packet", false, "the hub's next packet lacks its last byte, and the connection closes")
	f.BoolVar(&a.ExpireTokens, "expire-tokens", false, "the token has run out, now")
	f.BoolVar(&a.Kick, "kick", false, "the connection is cut, now")
}

// settle takes the flags that were given over; false if there were none.
func (a *armOptions) settle(given func(string) bool) bool {
	some := a.Kick || a.ExpireTokens || a.CutMidPacket
	for flag, take := range map[string]func(){
		"drop-acks":  func() { a.DropAcks = &a.dropAcks },
		"delay-acks": func() { delay := a.delay.String(); a.DelayAcks = &delay },
		"refuse-connects": func() {
			a.RefuseConnects = &hubsim.Refusals{Code: byte(min(max(a.refuseCode, 0), 255)), Count: a.refuse}
		},
		"close-on-publish":   func() { a.CloseOnPublish = &a.closeOn },
		"throttle":           func() { a.Throttle = &a.throttle },
		"exhaust-quota":      func() { a.ExhaustQuota = &a.quota },
		"fail-twins":         func() { a.FailTwins = &hubsim.Failures{Status: a.failStatus, Count: a.twins} },
		"fail-registrations": func() { a.FailRegistrations = &hubsim.Failures{Status: a.failStatus, Count: a.registrations} },
	} {
		if given(flag) {
			take()
			some = true
		}
	}
	return some
}

func faultsClearCommand(o *hubOptions) *cobra.Command {
	return &cobra.Command{
		Use:               "clear [DEVICE[/MODULE]]",
		Short:             "Set every dial back, of one identity or of all",
		Args:              words(cobra.MaximumNArgs(1)),
		ValidArgsFunction: completeIdentities(o, nil),
		RunE: func(c *cobra.Command, args []string) error {
			query := ""
			if len(args) == 1 {
				query = "?identity=" + url.QueryEscape(args[0])
			}
			return o.faults(c, http.MethodDelete, query, nil, nil)
		},
	}
}

// faults talks to the simulator about its faults.
func (o *hubOptions) faults(c *cobra.Command, method, query string, body, answer any) error {
	hub, err := o.client()
	if err != nil {
		return err
	}
	if err := hub.simulatorOnly("faults", faultsElsewhere); err != nil {
		return err
	}
	return hub.do(c.Context(), method, "/hubsim/faults"+query, body, answer)
}
