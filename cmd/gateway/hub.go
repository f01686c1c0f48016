package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
)

// connectionStringVariable may hold a real hub's service connection string: a command line would show
// it to every user of the machine.
const connectionStringVariable = "IOTHUB_CONNECTION_STRING"

// hubOptions are the flags of every hub command.
type hubOptions struct {
	connectionString string
	asJSON           bool
}

// client is a client of the hub that the command line means.
func (o *hubOptions) client() (*hubClient, error) { return newHubClient(o.connectionString) }

func hubCommand(io streams) *cobra.Command {
	o := &hubOptions{}
	c := &cobra.Command{
		Use:   "hub",
		Short: "Be the cloud: devices, twins, methods, messages of a hub, simulated or real",
		Long: `hub talks to the service side of a hub, as an application in the cloud would: to the simulator that
runs on this machine, or to a real IoT Hub whose service connection string stands in the environment
variable ` + connectionStringVariable + `.

A first round, in a second terminal beside 'gateway hubsim' or 'gateway demo':

  gateway hub devices list                           who there is, and who is connected
  gateway hub devices add dev1                       a new device, and the connection string for its SDK
  gateway hub watch                                  what devices send, as it comes
  gateway hub call dev1 reboot '{"delay": 5}'        a direct method, and its answer
  gateway hub twin patch dev1 '{"interval": 10}'     desired properties
  gateway hub send dev1 'open the valve'             a cloud-to-device message
  gateway hub page                                   all of this in a browser

Of a real hub, watch, send and faults are not to be had over HTTPS: they say what to use instead.
Completion knows the hub's devices: source <(gateway completion bash), or zsh, or fish.

Exit code: 0 done, 1 not done, 2 wrong command line, 3 a method was called and did not answer in time: it may
have been executed, 4 the hub knows no such device, module or enrolment.`,
	}
	f := c.PersistentFlags()
	f.StringVar(&o.connectionString, "connection-string", os.Getenv(connectionStringVariable), "service connection string of a real hub (better: in $"+connectionStringVariable+")")
	f.Lookup("connection-string").DefValue = ""
	f.BoolVar(&o.asJSON, "json", false, "print JSON for programs")
	c.AddCommand(hubDevicesCommand(io, o), hubConnectionStringCommand(io, o), hubTokenCommand(io, o), hubCallCommand(io, o),
		hubTwinCommand(io, o), hubSendCommand(io, o), hubWatchCommand(io, o), hubEnrolmentsCommand(io, o), hubFaultsCommand(io, o), hubPageCommand(io, o))
	return group(c)
}

// jsonInput is the JSON in args[at], or on the standard input if there is no such argument or it is "-".
func jsonInput(in io.Reader, args []string, at int) (json.RawMessage, error) {
	text, err := input(in, args, at)
	if err != nil {
		return nil, err
	}
	if !json.Valid(text) {
		return nil, &failure{exitUsage, fmt.Errorf("%s is not JSON; it looks like '{\"value\": 65}', with double quotes inside and single quotes around", clip(string(text), 200))}
	}
	return text, nil
}

// input is args[at], or the standard input if there is no such argument or it is "-". Nobody is made to
// type at a prompt that they do not see.
func input(in io.Reader, args []string, at int) ([]byte, error) {
	if len(args) > at && args[at] != "-" {
		return []byte(args[at]), nil
	}
	if len(args) <= at && interactive(in) {
		return nil, &failure{exitUsage, errors.New("an argument is missing; give it, or pipe it to the standard input")}
	}
	return io.ReadAll(io.LimitReader(in, maxInput))
}

// maxInput bounds what is read from the standard input: more than any hub takes.
const maxInput = 1 << 20
