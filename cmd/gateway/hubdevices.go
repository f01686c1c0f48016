package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/spf13/cobra"

	gateway "iothub-gateway"
)

func hubDevicesCommand(io streams, o *hubOptions) *cobra.Command {
	c := &cobra.Command{
		Use:   "devices",
		Short: "The hub's registry: list, show, add, enable, disable, remove",
		Long: `devices looks into the registry of the hub and changes it. A module is named DEVICE/MODULE.

  gateway hub devices add dev1                  makes its keys, prints its connection string
  gateway hub devices list --where "tags.hall = 3"
  gateway hub devices disable dev1              it is cut off at once, and not let in again
  gateway hub devices remove dev1`,
	}
	c.AddCommand(devicesListCommand(io, o), devicesShowCommand(io, o), devicesAddCommand(io, o),
		devicesStatusCommand(io, o, "enable", "enabled", "Let a device in again"),
		devicesStatusCommand(io, o, "disable", "disabled", "Cut a device off and keep it out"),
		devicesRemoveCommand(io, o))
	return group(c)
}

func devicesListCommand(io streams, o *hubOptions) *cobra.Command {
	var where string
	c := &cobra.Command{
		Use:   "list",
		Short: "List devices and their modules, and who of them is connected",
		Long: `list shows every device of the hub, its modules below it, or with --where those that fit a condition of IoT
Hub's query language, about tags, properties.desired, properties.reported, deviceId or connectionState.`,
		Example: `  gateway hub devices list
  gateway hub devices list --where "connectionState = 'Disconnected' AND tags.hall = 3"
  gateway hub devices list --json | jq -r '.[].deviceId'`,
		Args: words(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			hub, err := o.client()
			if err != nil {
				return err
			}
			all, err := hub.list(c.Context(), where)
			switch {
			case err != nil:
				return err
			case o.asJSON:
				return printJSON(io.out, all)
			}
			showTwins(io.out, all, time.Now())
			return nil
		},
	}
	c.Flags().StringVar(&where, "where", "", "condition, such as \"tags.hall = 3\"")
	return c
}

// list are the devices and modules that fit a condition, "" is all: each device before its modules.
func (h *hubClient) list(ctx context.Context, where string) ([]hubTwin, error) {
	all := []hubTwin{}
	if where != "" {
		where = " WHERE " + where
	}
	for _, collection := range []string{"devices", "devices.modules"} {
		err := h.query(ctx, "SELECT * FROM "+collection+where, func(t hubTwin) error {
			all = append(all, t)
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	slices.SortFunc(all, func(a, b hubTwin) int {
		return cmp.Or(cmp.Compare(a.DeviceID, b.DeviceID), cmp.Compare(a.ModuleID, b.ModuleID))
	})
	return all, nil
}

// showTwins prints a line for each device or module.
func showTwins(w io.Writer, all []hubTwin, now time.Time) {
	if len(all) == 0 {
		fmt.Fprintln(w, "none; 'gateway hub devices add DEVICE' makes one")
		return
	}
	t := newTable(w, "identity", "status", "connection", "last activity", "waiting", "proof")
	for _, d := range all {
		t.AppendRow(table.Row{d.identity(), dash(d.Status), strings.ToLower(d.ConnectionState), ago(d.LastActivity, now), d.Waiting, dash(d.AuthenticationType)})
	}
	t.Render()
}

// dash stands where there is nothing to say.
func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// ago says how long ago something was; "never" if it was not.
func ago(t, now time.Time) string {
	if t.Year() <= 1 { // how a hub says never
		return "never"
	}
	return since(t, now) + " ago"
}

func devicesShowCommand(io streams, o *hubOptions) *cobra.Command {
	return &cobra.Command{
		Use:   "show DEVICE[/MODULE]",
		Short: "Show one device or module, and its modules",
		Long: `show prints what the registry knows about one identity. Its keys are not shown: see 'gateway hub
connection-string'. Its properties and tags: see 'gateway hub twin get'.

Exit code: 0 shown, 1 it cannot be read, 2 wrong command line, 4 there is no such device or module.`,
		Args:              words(cobra.ExactArgs(1)),
		ValidArgsFunction: completeIdentities(o, nil),
		RunE: func(c *cobra.Command, args []string) error {
			hub, err := o.client()
			if err != nil {
				return err
			}
			view, err := hub.view(c.Context(), gateway.IdentityID(args[0]))
			switch {
			case err != nil:
				return err
			case o.asJSON:
				return printJSON(io.out, view)
			}
			view.show(io.out, time.Now())
			return nil
		},
	}
}

// deviceView is an entry of the registry without its keys.
type deviceView struct {
	hubTwin
	StatusReason string   `json:"statusReason,omitempty"`
	GenerationID string   `json:"generationId"`
	ETag         string   `json:"etag"`
	IotEdge      bool     `json:"iotEdge,omitempty"`
	Thumbprints  []string `json:"thumbprints,omitempty"`
	Modules      []string `json:"modules,omitempty"`
}

// view is what there is to be shown of an identity.
func (h *hubClient) view(ctx context.Context, id gateway.IdentityID) (deviceView, error) {
	d, err := h.device(ctx, id)
	if err != nil {
		return deviceView{}, err
	}
	v := deviceView{
		hubTwin:      hubTwin{d.DeviceID, d.ModuleID, d.Status, d.ConnectionState, d.LastActivity, d.Waiting, d.Authentication.Type},
		StatusReason: d.StatusReason, GenerationID: d.GenerationID, ETag: d.ETag, IotEdge: d.Capabilities.IotEdge,
	}
	for _, print := range []string{d.Authentication.X509Thumbprint.Primary, d.Authentication.X509Thumbprint.Secondary} {
		if print != "" {
			v.Thumbprints = append(v.Thumbprints, print)
		}
	}
	if id.Module() != "" {
		return v, nil
	}
	modules, err := h.modules(ctx, id)
	for _, m := range modules {
		v.Modules = append(v.Modules, m.ModuleID)
	}
	return v, err
}

func (v *deviceView) show(w io.Writer, now time.Time) {
	t := newTable(w, "what", "value")
	status := dash(v.Status)
	if v.StatusReason != "" {
		status += ": " + v.StatusReason
	}
	t.AppendRows([]table.Row{
		{"identity", v.identity()}, {"status", status}, {"connection", strings.ToLower(v.ConnectionState)},
		{"last activity", ago(v.LastActivity, now)}, {"messages that wait for it", v.Waiting},
		{"proof", strings.TrimSpace(dash(v.AuthenticationType) + " " + strings.Join(v.Thumbprints, " "))},
		{"generation", v.GenerationID}, {"etag", v.ETag},
	})
	if v.IotEdge {
		t.AppendRow(table.Row{"IoT Edge", "yes"})
	}
	if len(v.Modules) > 0 {
		t.AppendRow(table.Row{"modules", strings.Join(v.Modules, ", ")})
	}
	t.Render()
}

// addOptions are the flags of devices add.
type addOptions struct {
	thumbprint, secondary string
	authority, edge       bool
}

// authentication is how the new device will prove itself.
func (o *addOptions) authentication() (a hubAuthentication, err error) {
	a.Type = "sas"
	if o.secondary != "" && o.thumbprint == "" || o.thumbprint != "" && o.authority {
		return a, &failure{exitUsage, errors.New("say --thumbprint (and --secondary-thumbprint), or --x509-ca, or neither for a key")}
	}
	if o.authority {
		a.Type = "certificateAuthority"
	}
	if o.thumbprint != "" {
		a.Type, a.X509Thumbprint.Primary, a.X509Thumbprint.Secondary = "selfSigned", o.thumbprint, o.secondary
	}
	return a, nil
}

func devicesAddCommand(io streams, o *hubOptions) *cobra.Command {
	var add addOptions
	c := &cobra.Command{
		Use:   "add DEVICE[/MODULE]...",
		Short: "Register devices or modules, and print their connection strings",
		Long: `add registers new identities. The hub makes their keys, unless they prove themselves with a certificate.
The connection string that is printed is all that an SDK of the device needs; it holds the key, like a
password.

Exit code: 0 all are registered, 1 one was not (it exists already, or the hub refused it), 2 wrong command
line.`,
		Example: `  gateway hub devices add dev1 dev2
  gateway hub devices add dev1/camera
  gateway hub devices add dev3 --thumbprint 8BAA7C1E6A3F40B2D9C5E4F1A0B3C6D7E8F90123`,
		Args: words(cobra.MinimumNArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			how, err := add.authentication()
			if err != nil {
				return err
			}
			hub, err := o.client()
			if err != nil {
				return err
			}
			added := []connectionLine{}
			for _, name := range args {
				d, err := hub.add(c.Context(), gateway.IdentityID(name), how, add.edge)
				if err != nil {
					return errors.Join(err, showConnections(io.out, added, o.asJSON))
				}
				added = append(added, connectionLine{name, hub.connectionStringOf(d)})
			}
			return showConnections(io.out, added, o.asJSON)
		},
	}
	f := c.Flags()
	f.StringVar(&add.thumbprint, "thumbprint", "", "it proves itself with the certificate of this thumbprint, in hex")
	f.StringVar(&add.secondary, "secondary-thumbprint", "", "or with that of this one, while the first is replaced")
	f.BoolVar(&add.authority, "x509-ca", false, "it proves itself with a certificate of an authority that the hub knows")
	f.BoolVar(&add.edge, "edge", false, "it is an IoT Edge device")
	return c
}

func devicesStatusCommand(io streams, o *hubOptions, verb, status, short string) *cobra.Command {
	var reason string
	c := &cobra.Command{
		Use:   verb + " DEVICE...",
		Short: short,
		Long: verb + ` changes the status of devices. A disabled device is cut off at once, its modules with it; what is sent to
it waits. Modules have no status of their own.

Exit code: 0 all are ` + status + `, 1 one is not, 2 wrong command line, 4 there is no such device.`,
		Args:              words(cobra.MinimumNArgs(1)),
		ValidArgsFunction: completeIdentities(o, nil),
		RunE: func(c *cobra.Command, args []string) error {
			hub, err := o.client()
			if err != nil {
				return err
			}
			for _, name := range args {
				id := gateway.IdentityID(name)
				if id.Module() != "" {
					return &failure{exitUsage, fmt.Errorf("%s is a module, which has no status of its own; %s its device %s", id, verb, id.Device())}
				}
				if err := hub.setStatus(c.Context(), id, status, reason); err != nil {
					return err
				}
				fmt.Fprintf(io.err, "%s is %s\n", id, status)
			}
			return nil
		},
	}
	c.Flags().StringVar(&reason, "reason", "", "why, for whoever looks it up")
	return c
}

func devicesRemoveCommand(io streams, o *hubOptions) *cobra.Command {
	var yes bool
	c := &cobra.Command{
		Use:   "remove DEVICE[/MODULE]",
		Short: "Remove a device or module for good, after asking",
		Long: `remove deletes an identity from the registry, for a device with its modules: keys, twins and waiting
messages are gone, and a connection is cut. Messages that it sent stay.

Exit code: 0 removed, 1 not removed, 2 wrong command line, 4 there is no such device or module.`,
		Args:              words(cobra.ExactArgs(1)),
		ValidArgsFunction: completeIdentities(o, nil),
		RunE: func(c *cobra.Command, args []string) error {
			hub, err := o.client()
			if err != nil {
				return err
			}
			id := gateway.IdentityID(args[0])
			v, err := hub.view(c.Context(), id)
			if err != nil {
				return err
			}
			if !yes {
				if err := confirm(io, v.removal(hub.host)); err != nil {
					return err
				}
			}
			if err := hub.remove(c.Context(), id); err != nil {
				return err
			}
			fmt.Fprintf(io.err, "%s is removed\n", id)
			return nil
		},
	}
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return c
}

// removal is the question before v is removed: what will be gone.
func (v *deviceView) removal(host string) string {
	lost := []string{"its key", "its twin"}
	if v.Waiting > 0 {
		lost = append(lost, count(v.Waiting, "waiting message"))
	}
	if len(v.Modules) > 0 {
		lost = append(lost, "its modules "+strings.Join(v.Modules, ", "))
	}
	return fmt.Sprintf("%s (%s) will be removed from hub %s for good: %s.", v.identity(), strings.ToLower(v.ConnectionState), host, strings.Join(lost, ", "))
}
