package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	gateway "iothub-gateway"
	"iothub-gateway/hubsim"
	"iothub-gateway/identity"
)

// connectionStringVariable may hold a real hub's service connection string: a command line would show
// it to every user of the machine.
const connectionStringVariable = "IOTHUB_CONNECTION_STRING"

func hubCommand(io streams) *cobra.Command {
	var connectionString string
	c := &cobra.Command{
		Use:   "hub",
		Short: "Be the cloud: call a method, make a token, see what arrives",
		Long: `hub talks to the service side of a hub, as an application in the cloud would: to the simulator that
runs on this machine, or to a real IoT Hub whose service connection string stands in the environment
variable ` + connectionStringVariable + `.`,
	}
	c.PersistentFlags().StringVar(&connectionString, "connection-string", os.Getenv(connectionStringVariable), "service connection string of a real hub (better: in $"+connectionStringVariable+")")
	c.PersistentFlags().Lookup("connection-string").DefValue = ""
	c.AddCommand(hubCallCommand(io, &connectionString), hubTokenCommand(io, &connectionString), hubMessagesCommand(io))
	return group(c)
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
				return &failure{exitUsage, fmt.Errorf("%s is not JSON; it looks like '{\"value\": 65}', with double quotes inside and single quotes around", payload)}
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
	var service bool
	c := &cobra.Command{
		Use:   "token DEVICE[/MODULE] | --service",
		Short: "Print a SAS token with which any MQTT client can connect as the device",
		Long: `token signs a shared access signature with the identity's key and prints it: the password of an
MQTT connection whose client id is DEVICE and whose user name is HOST/DEVICE/?api-version=2021-04-12
(of a module: DEVICE/MODULE and HOST/DEVICE/MODULE/?api-version=2021-04-12). HOST is the hub's name.
With --service it is the Authorization header of requests to the service side.
Treat it like a password: it is one, until it expires.`,
		Example: "  mosquitto_pub ... -P \"$(gateway hub token boiler-plc)\"\n  curl ... -H \"Authorization: $(gateway hub token --service)\"",
		Args:    words(cobra.MaximumNArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			switch {
			case service == (len(args) == 1):
				return &failure{exitUsage, errors.New("name a device, or say --service")}
			case life <= 0:
				return &failure{exitUsage, fmt.Errorf("--ttl %v: a token must hold for some time", life)}
			}
			hub, err := newHubClient(*connectionString)
			if err != nil {
				return err
			}
			token, err := hub.token(c.Context(), args, life)
			if err != nil {
				return err
			}
			fmt.Fprintln(io.out, token.Reveal())
			return nil
		},
	}
	c.Flags().DurationVar(&life, "ttl", time.Hour, "how long the token holds")
	c.Flags().BoolVar(&service, "service", false, "a token for the service side, of the connection string's policy")
	return c
}

// token signs for the device in args, or for the service side if there is none.
func (h *hubClient) token(ctx context.Context, args []string, life time.Duration) (identity.Secret, error) {
	if len(args) == 0 {
		return identity.ServiceToken(h.host, h.policy, h.key, time.Now().Add(life))
	}
	id := gateway.IdentityID(args[0])
	key, err := h.deviceKey(ctx, id)
	if err != nil {
		return identity.Secret{}, err
	}
	sas, err := identity.NewSAS(h.host, id, key, life)
	if err != nil {
		return identity.Secret{}, err
	}
	login, err := sas.Login(ctx, identity.Attempt{Now: time.Now()})
	return login.Password, err
}

func hubMessagesCommand(io streams) *cobra.Command {
	var follow, asJSON bool
	c := &cobra.Command{
		Use:   "messages [DEVICE[/MODULE]]",
		Short: "Show what has arrived at the simulator",
		Long: `messages lists the messages that the running simulator has stored, one on a line: when, from whom, the
fields, and how long it took from the reading to the hub. (A real hub's messages are read from its
built-in endpoint, which speaks AMQP only.)`,
		Example: "  gateway hub messages --follow\n  gateway hub messages boiler-plc --json",
		Args:    words(cobra.MaximumNArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			hub, err := newHubClient("")
			if err != nil {
				return err
			}
			var only gateway.IdentityID
			if len(args) == 1 {
				only = gateway.IdentityID(args[0])
			}
			return eachMessage(c.Context(), io, hub, follow, func(m hubsim.Message) error {
				if only != "" && identityOf(m) != only {
					return nil
				}
				if asJSON {
					return json.NewEncoder(io.out).Encode(m)
				}
				_, err := fmt.Fprintln(io.out, messageLine(m, 0))
				return err
			})
		},
	}
	c.Flags().BoolVar(&follow, "follow", false, "go on showing what arrives, until Ctrl-C")
	c.Flags().BoolVar(&asJSON, "json", false, "print each message as a JSON object on a line of its own")
	return c
}

// eachMessage calls show with every message that the simulator has stored; with follow until ctx ends, also
// while the simulator is stopped and started again.
func eachMessage(ctx context.Context, io streams, hub *hubClient, follow bool, show func(hubsim.Message) error) error {
	after, away := uint64(0), false
	for {
		batch, err := hub.messages(ctx, after)
		gone := follow && errors.Is(err, syscall.ECONNREFUSED)
		if gone && !away {
			fmt.Fprintln(io.err, "the hub has stopped; waiting until it is back")
		}
		if away = gone; err != nil && !gone {
			return err
		}
		for _, m := range batch {
			after = m.Sequence
			if err := show(m); err != nil {
				return err
			}
		}
		if len(batch) > 0 {
			continue
		}
		if !follow || !pauseFor(ctx, 300*time.Millisecond) {
			return nil
		}
	}
}

// pauseFor waits; false if ctx ended first.
func pauseFor(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}
