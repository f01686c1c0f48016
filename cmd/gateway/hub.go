package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	gateway "iothub-gateway"
	"iothub-gateway/identity"
)

// connectionStringVariable may hold a real hub's service connection string: a command line would show
// it to every user of the machine.
const connectionStringVariable = "IOTHUB_CONNECTION_STRING"

func hubCommand(io streams) *cobra.Command {
	var connectionString string
	c := &cobra.Command{
		Use:   "hub",
		Short: "Be the cloud: call a method, make a token",
		Long: `hub talks to the service side of a hub, as an application in the cloud would: to the simulator that
runs on this machine, or to a real IoT Hub whose service connection string stands in the environment
variable ` + connectionStringVariable + `.`,
	}
	c.PersistentFlags().StringVar(&connectionString, "connection-string", os.Getenv(connectionStringVariable), "service connection string of a real hub (better: in $"+connectionStringVariable+")")
	c.PersistentFlags().Lookup("connection-string").DefValue = ""
	c.AddCommand(hubCallCommand(io, &connectionString), hubTokenCommand(io, &connectionString))
	return c
}

func hubCallCommand(io streams, connectionString *string) *cobra.Command {
	return &cobra.Command{
		Use:   "call DEVICE[/MODULE] METHOD [JSON]",
		Short: "Call a direct method and show the answer",
		Long: `call invokes a direct method on a device or module and prints the status and the body it answers.

Exit code: 0 the device answered with a status below 400, 1 it answered with another or not at all,
2 wrong command line.`,
		Example: "  gateway hub call boiler-plc setSetpoint '{\"value\": 65}'\n  gateway hub call boiler-plc readNow",
		Args:    words(cobra.RangeArgs(2, 3)),
		RunE: func(c *cobra.Command, args []string) error {
			payload := json.RawMessage("null")
			if len(args) == 3 {
				payload = json.RawMessage(args[2])
			}
			if !json.Valid(payload) {
				return &failure{exitUsage, fmt.Errorf("%s is not JSON; a text needs quotes inside the quotes of the shell: '\"text\"'", payload)}
			}
			hub, err := newHubClient(*connectionString)
			if err != nil {
				return err
			}
			start := time.Now()
			answer, err := hub.call(c.Context(), gateway.IdentityID(args[0]), args[1], payload)
			if err != nil {
				return err
			}
			var body bytes.Buffer
			if err := json.Indent(&body, answer.Payload, "", "  "); err != nil {
				body.Write(answer.Payload)
			}
			fmt.Fprintf(io.err, "status %d after %d ms\n", answer.Status, time.Since(start).Milliseconds())
			fmt.Fprintln(io.out, body.String())
			if answer.Status >= 400 {
				return &failure{code: exitFailed}
			}
			return nil
		},
	}
}

func hubTokenCommand(io streams, connectionString *string) *cobra.Command {
	var life time.Duration
	c := &cobra.Command{
		Use:   "token DEVICE[/MODULE]",
		Short: "Print a SAS token with which any MQTT client can connect as the device",
		Long: `token signs a shared access signature with the identity's key and prints it: the password of an
MQTT connection whose client id is DEVICE and whose user name is HOST/DEVICE/?api-version=2021-04-12.
Treat it like a password: it is one, until it expires.`,
		Example: "  mosquitto_pub ... -P \"$(gateway hub token boiler-plc)\"",
		Args:    words(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			hub, err := newHubClient(*connectionString)
			if err != nil {
				return err
			}
			id := gateway.IdentityID(args[0])
			key, err := hub.deviceKey(c.Context(), id)
			if err != nil {
				return err
			}
			sas, err := identity.NewSAS(hub.host, id, key, life)
			if err != nil {
				return err
			}
			login, err := sas.Login(time.Now())
			if err != nil {
				return err
			}
			fmt.Fprintln(io.out, login.Password.Reveal())
			return nil
		},
	}
	c.Flags().DurationVar(&life, "ttl", time.Hour, "how long the token holds")
	return c
}
