package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	gateway "iothub-gateway"
)

// connectionLine is an identity and how it connects.
type connectionLine struct {
	Identity         string `json:"identity"`
	ConnectionString string `json:"connectionString"`
}

func showConnections(w io.Writer, all []connectionLine, asJSON bool) error {
	if asJSON {
		return printJSON(w, all)
	}
	for _, line := range all {
		fmt.Fprintln(w, line.ConnectionString)
	}
	return nil
}

func hubConnectionStringCommand(io streams, o *hubOptions) *cobra.Command {
	var service bool
	c := &cobra.Command{
		Use:   "connection-string DEVICE[/MODULE] | --service",
		Short: "Print the connection string of a device, for its SDK",
		Long: `connection-string prints what an SDK wants to know to connect as the device: the hub's name, the
device's, and its key. With --service it is the service side's own. Treat it like a password: it is one.

Exit code: 0 printed, 1 it cannot be read, 2 wrong command line, 4 there is no such device or module.`,
		Args:              words(cobra.MaximumNArgs(1)),
		ValidArgsFunction: completeIdentities(o, nil),
		RunE: func(c *cobra.Command, args []string) error {
			if service == (len(args) == 1) {
				return &failure{exitUsage, errors.New("name a device, or say --service")}
			}
			hub, err := o.client()
			if err != nil {
				return err
			}
			line := connectionLine{ConnectionString: "HostName=" + hub.host + ";SharedAccessKeyName=" + hub.policy + ";SharedAccessKey=" + hub.key.Reveal()}
			if !service {
				d, err := hub.device(c.Context(), gateway.IdentityID(args[0]))
				if err != nil {
					return err
				}
				line = connectionLine{args[0], hub.connectionStringOf(d)}
			}
			if o.asJSON {
				return printJSON(io.out, line)
			}
			fmt.Fprintln(io.out, line.ConnectionString)
			return nil
		},
	}
	c.Flags().BoolVar(&service, "service", false, "the connection string of the service side")
	return c
}
