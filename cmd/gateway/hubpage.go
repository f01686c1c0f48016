package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"
)

func hubPageCommand(io streams, o *hubOptions) *cobra.Command {
	return &cobra.Command{
		Use:   "page",
		Short: "Print the address of the simulator's page, for a browser",
		Long: `page prints the address at which a browser shows the running simulator: its devices, messages as they come,
twins, and forms to call methods and send messages. The address holds a key: treat it like a password. The
browser warns of the certificate until the simulator's ca.pem is among those that it trusts.

(IoT Hub has its page in the Azure portal.)`,
		Args: words(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error {
			if o.connectionString != "" {
				return errors.New("only the simulator has this page; a real hub's is in the Azure portal")
			}
			note, err := readNote()
			if err != nil {
				return err
			}
			if o.asJSON {
				return printJSON(io.out, map[string]string{"page": note.Page})
			}
			fmt.Fprintln(io.out, note.Page)
			return nil
		},
	}
}
