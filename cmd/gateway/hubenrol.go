package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/spf13/cobra"

	"iothub-gateway/hubsim"
	"iothub-gateway/identity"
)

// provisioningAPI is the version of the provisioning service's REST API.
const provisioningAPI = "api-version=2021-10-01"

func hubEnrolmentsCommand(io streams, o *hubOptions) *cobra.Command {
	c := &cobra.Command{
		Use:     "enrolments",
		Aliases: []string{"enrollments"},
		Short:   "The provisioning service's enrolments: list, show, add, key, remove",
		Long: `enrolments says which devices may ask the Device Provisioning Service for their hub. An individual enrolment
is for one registration id, a group (--group) for every device with a key derived from the group's, or with a
certificate that the group's has signed.

  gateway hub enrolments add boiler-7                      one device; prints its key
  gateway hub enrolments add plant-7 --group               a group
  gateway hub enrolments key plant-7 boiler-8 --group      the key of one of its devices
  gateway hub enrolments list

The simulator is its own provisioning service. A real one has a connection string of its own: give that one,
HostName=NAME.azure-devices-provisioning.net;..., with --connection-string.`,
	}
	c.AddCommand(enrolmentsListCommand(io, o), enrolmentsShowCommand(io, o), enrolmentsAddCommand(io, o),
		enrolmentsKeyCommand(io, o), enrolmentsRemoveCommand(io, o))
	return group(c)
}

// enrolments is a client of the provisioning service.
func (o *hubOptions) enrolments() (*hubClient, error) {
	hub, err := o.client()
	if err == nil {
		err = hub.simulatorOnly("enrolments", "give the connection string of its provisioning service (HostName=NAME.azure-devices-provisioning.net;...)")
	}
	return hub, err
}

// enrolmentPath is where the service has an enrolment; id "query" lists them, as nobody is called.
func enrolmentPath(id string, group bool, more string) string {
	kind := "/enrollments/"
	if group {
		kind = "/enrollmentGroups/"
	}
	return kind + url.PathEscape(id) + more + "?" + provisioningAPI
}

// enrolmentName is the id of an enrolment, and what it is.
func enrolmentName(e hubsim.Enrollment) (id, kind string) {
	if e.EnrollmentGroupID != "" {
		return e.EnrollmentGroupID, "group"
	}
	return e.RegistrationID, "individual"
}

func enrolmentsListCommand(io streams, o *hubOptions) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List individual enrolments and groups",
		Args:  words(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			hub, err := o.enrolments()
			if err != nil {
				return err
			}
			all := []hubsim.Enrollment{}
			for _, group := range []bool{false, true} {
				request := hubRequest{
					method: http.MethodPost, path: enrolmentPath("query", group, ""), body: map[string]string{"query": "SELECT *"},
				}
				err := pages(c.Context(), hub, request, func(e hubsim.Enrollment) error {
					all = append(all, e)
					return nil
				})
				if err != nil {
					return err
				}
			}
			if o.asJSON {
				return printJSON(io.out, all)
			}
			showEnrolments(io.out, all, time.Now())
			return nil
		},
	}
}

func showEnrolments(w io.Writer, all []hubsim.Enrollment, now time.Time) {
	if len(all) == 0 {
		fmt.Fprintln(w, "none; 'gateway hub enrolments add ID' makes one")
		return
	}
	t := newTable(w, "id", "kind", "status", "proof", "assigned to", "changed")
	for _, e := range all {
		id, kind := enrolmentName(e)
		t.AppendRow(table.Row{id, kind, cmp.Or(e.ProvisioningStatus, "enabled"), e.Attestation.Type, assigned(e), ago(e.LastUpdatedDateTimeUtc, now)})
	}
	t.Render()
}

// assigned is where an individual enrolment's device is; a group's are many.
func assigned(e hubsim.Enrollment) string {
	if s := e.RegistrationState; s != nil && s.AssignedHub != "" {
		return s.DeviceID + " at " + s.AssignedHub
	}
	return "-"
}

func enrolmentsShowCommand(io streams, o *hubOptions) *cobra.Command {
	var group bool
	c := &cobra.Command{
		Use:   "show ID",
		Short: "Show one enrolment, and for a group who has registered",
		Long: `show prints an enrolment as the service has it, in JSON. Its key is not shown: see enrolments key.

Exit code: 0 shown, 1 it cannot be read, 2 wrong command line, 4 there is no such enrolment.`,
		Args: words(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			hub, err := o.enrolments()
			if err != nil {
				return err
			}
			var e hubsim.Enrollment
			if err := hub.do(c.Context(), http.MethodGet, enrolmentPath(args[0], group, ""), nil, &e); err != nil {
				return err
			}
			view := struct {
				hubsim.Enrollment
				Registrations []hubsim.RegistrationState `json:"registrations,omitempty"`
			}{Enrollment: e}
			if group {
				request := hubRequest{
					method: http.MethodPost, path: "/registrations/" + url.PathEscape(args[0]) + "/query?" + provisioningAPI, body: map[string]string{"query": "SELECT *"},
				}
				err = pages(c.Context(), hub, request, func(s hubsim.RegistrationState) error {
					view.Registrations = append(view.Registrations, s)
					return nil
				})
			}
			return errors.Join(err, printJSON(io.out, view))
		},
	}
	c.Flags().BoolVar(&group, "group", false, "ID is a group's")
	return c
}

// enrolOptions are the flags of enrolments add.
type enrolOptions struct {
	hubsim.Enrollment
	group, disabled   bool
	certificate, twin string
}

func enrolmentsAddCommand(io streams, o *hubOptions) *cobra.Command {
	var e enrolOptions
	c := &cobra.Command{
		Use:   "add ID",
		Short: "Let a device, or with --group many, find their hub",
		Long: `add makes an enrolment. The service makes its key, which is printed; with --certificate the device proves
itself with that certificate, the devices of a group with one that it has signed.

Exit code: 0 added, 1 not added (there is one already, or the service refused it), 2 wrong command line.`,
		Example: `  gateway hub enrolments add boiler-7 --device-id boiler-plc
  gateway hub enrolments add plant-7 --group --initial-twin '{"tags": {"hall": 3}}'
  gateway hub enrolments add plant-8 --group --certificate ca.pem`,
		Args: words(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			if err := e.settle(args[0]); err != nil {
				return err
			}
			hub, err := o.enrolments()
			if err != nil {
				return err
			}
			// A PUT without If-Match makes or replaces.
			path := enrolmentPath(args[0], e.group, "")
			err = hub.do(c.Context(), http.MethodGet, path, nil, nil)
			var absent *hubError
			if !errors.As(err, &absent) || absent.status != http.StatusNotFound {
				return cmp.Or(err, fmt.Errorf("hub %s: there is an enrolment %s already; remove it first", hub.host, args[0]))
			}
			if err := hub.do(c.Context(), http.MethodPut, path, e.Enrollment, nil); err != nil {
				return err
			}
			if e.certificate != "" {
				fmt.Fprintf(io.err, "%s is enrolled\n", args[0])
				return nil
			}
			hub.sayScope(c.Context(), io.err, args[0])
			return showEnrolmentKey(c, io, o, enrolmentKey{hub: hub, id: args[0], group: e.group})
		},
	}
	f := c.Flags()
	f.BoolVar(&e.group, "group", false, "ID is a group's")
	f.StringVar(&e.DeviceID, "device-id", "", "what the device is called at its hub (default: as its registration id)")
	f.StringVar(&e.IotHubHostName, "hub", "", "the hub that it is assigned to (default: any that the service knows)")
	f.StringVar(&e.certificate, "certificate", "", "PEM file of the device's certificate, or of the group's authority")
	f.StringVar(&e.twin, "initial-twin", "", "JSON of the twin that it begins with: {\"tags\": {..}, \"properties\": {\"desired\": {..}}}")
	f.BoolVar(&e.disabled, "disabled", false, "nobody is let in by it yet")
	return c
}

// sayScope says what a device that was just enrolled wants to know beside its key. A real service's scope
// stands in the portal.
func (h *hubClient) sayScope(ctx context.Context, w io.Writer, id string) {
	var service struct{ IDScope, Host string }
	if h.simulated() && h.do(ctx, http.MethodGet, "/hubsim/provisioning", nil, &service) == nil {
		fmt.Fprintf(w, "%s is enrolled; its device asks %s with id scope %s and this key:\n", id, service.Host, service.IDScope)
	}
}

// settle completes the enrolment called id.
func (e *enrolOptions) settle(id string) error {
	e.RegistrationID, e.ProvisioningStatus = id, "enabled"
	if e.group {
		e.RegistrationID, e.EnrollmentGroupID = "", id
	}
	if e.disabled {
		e.ProvisioningStatus = "disabled"
	}
	if e.group && e.DeviceID != "" {
		return &failure{exitUsage, errors.New("--device-id is for one device, not for a group")}
	}
	if e.twin != "" {
		if e.InitialTwin = json.RawMessage(e.twin); !json.Valid(e.InitialTwin) {
			return &failure{exitUsage, fmt.Errorf("--initial-twin %s is not JSON", e.twin)}
		}
	}
	e.Attestation.Type = "symmetricKey"
	if e.certificate == "" {
		return nil
	}
	text, err := os.ReadFile(e.certificate)
	if err != nil {
		return err
	}
	pair := &hubsim.CertificatePair{Primary: &hubsim.EnrolledCertificate{Certificate: string(text)}}
	e.Attestation = hubsim.Attestation{Type: "x509", X509: &hubsim.X509Attestation{ClientCertificates: pair}}
	if e.group {
		e.Attestation.X509 = &hubsim.X509Attestation{SigningCertificates: pair}
	}
	return nil
}

// enrolmentKey names a key: of an enrolment, or of a device of a group.
type enrolmentKey struct {
	hub          *hubClient
	id           string
	group        bool
	registration string // of the group's device, "" is the group itself
}

func enrolmentsKeyCommand(io streams, o *hubOptions) *cobra.Command {
	var group bool
	c := &cobra.Command{
		Use:   "key ID [REGISTRATION --group]",
		Short: "Print the key of an enrolment, or of one device of a group",
		Long: `key prints the primary key of an enrolment, which the device proves itself with. Of a group it prints the
group's own, which belongs on no device, or with a registration id the key of that device, which is derived
from it. Treat it like a password: it is one.

Exit code: 0 printed, 1 it has none, 2 wrong command line, 4 there is no such enrolment.`,
		Example: "  gateway hub enrolments key boiler-7\n  gateway hub enrolments key plant-7 boiler-8 --group > keys/boiler-8",
		Args:    words(cobra.RangeArgs(1, 2)),
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) == 2 && !group {
				return &failure{exitUsage, errors.New("only of a group keys are derived: add --group")}
			}
			hub, err := o.enrolments()
			if err != nil {
				return err
			}
			return showEnrolmentKey(c, io, o, enrolmentKey{hub, args[0], group, strings.Join(args[1:], "")})
		},
	}
	c.Flags().BoolVar(&group, "group", false, "ID is a group's")
	return c
}

// showEnrolmentKey prints a key.
func showEnrolmentKey(c *cobra.Command, io streams, o *hubOptions, k enrolmentKey) error {
	var a hubsim.Attestation
	if err := k.hub.do(c.Context(), http.MethodPost, enrolmentPath(k.id, k.group, "/attestationmechanism"), nil, &a); err != nil {
		return err
	}
	if a.SymmetricKey == nil {
		return fmt.Errorf("%s has no key: its devices prove themselves with certificates", k.id)
	}
	key := identity.NewSecret(a.SymmetricKey.PrimaryKey)
	if k.registration != "" {
		var err error
		if key, err = identity.DeriveKey(key, k.registration); err != nil {
			return err
		}
	}
	if o.asJSON {
		return printJSON(io.out, map[string]string{"id": cmp.Or(k.registration, k.id), "key": key.Reveal()})
	}
	fmt.Fprintln(io.out, key.Reveal())
	return nil
}

func enrolmentsRemoveCommand(io streams, o *hubOptions) *cobra.Command {
	var group, yes bool
	c := &cobra.Command{
		Use:   "remove ID",
		Short: "Remove an enrolment, after asking",
		Long: `remove deletes an enrolment: its devices do not find their hub by it any more. Those that were assigned stay
in their hub's registry.

Exit code: 0 removed, 1 not removed, 2 wrong command line, 4 there is no such enrolment.`,
		Args: words(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			hub, err := o.enrolments()
			if err != nil {
				return err
			}
			var e hubsim.Enrollment
			path := enrolmentPath(args[0], group, "")
			if err := hub.do(c.Context(), http.MethodGet, path, nil, &e); err != nil {
				return err
			}
			id, kind := enrolmentName(e)
			if !yes {
				if err := confirm(io, fmt.Sprintf("The %s enrolment %s will be removed from %s for good, with its key.", kind, id, hub.host)); err != nil {
					return err
				}
			}
			if err := hub.do(c.Context(), http.MethodDelete, path, nil, nil); err != nil {
				return err
			}
			fmt.Fprintf(io.err, "%s is removed\n", id)
			return nil
		},
	}
	c.Flags().BoolVar(&group, "group", false, "ID is a group's")
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return c
}
