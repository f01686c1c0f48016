package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/spf13/cobra"

	gateway "iothub-gateway"
	"iothub-gateway/identity"
)

func hubCallCommand(io streams, o *hubOptions) *cobra.Command {
	timeout := methodTimeout
	c := &cobra.Command{
		Use:   "call DEVICE[/MODULE] METHOD [JSON|-]",
		Short: "Call a direct method and show the answer",
		Long: `call invokes a direct method on a device or module and prints the status and the body it answers. With -
the payload is read from the standard input.

Exit code: 0 the device answered with a status below 400, 1 it answered with another, or is not connected,
2 wrong command line, 3 it did not answer in time and may have executed it, 4 there is no such device.`,
		Example: `  gateway hub call boiler-plc setSetpoint '{"value": 65}'
  gateway hub call boiler-plc readNow --timeout 2m --json`,
		Args:              words(cobra.RangeArgs(2, 3)),
		ValidArgsFunction: completeIdentities(o, completeMethods),
		RunE: func(c *cobra.Command, args []string) error {
			if timeout < 5*time.Second || timeout > 5*time.Minute {
				return &failure{exitUsage, fmt.Errorf("--timeout %v: a hub waits 5s to 5m", timeout)}
			}
			payload := json.RawMessage("null")
			if len(args) == 3 {
				var err error
				if payload, err = jsonInput(io.in, args, 2); err != nil {
					return err
				}
			}
			hub, err := o.client()
			if err != nil {
				return err
			}
			start := time.Now()
			answer, err := hub.call(c.Context(), methodCallOf(args, payload, timeout))
			if err != nil {
				return err
			}
			return showAnswer(io, answer, time.Since(start), o.asJSON)
		},
	}
	c.Flags().DurationVar(&timeout, "timeout", methodTimeout, "how long the device may take")
	return c
}

// methodTimeout is how long a device may take to answer a method, unless it is said otherwise.
const methodTimeout = 30 * time.Second

// serviceCall is a direct method call; its JSON is what the hub wants (METH-12).
type serviceCall struct {
	identity gateway.IdentityID
	Method   string          `json:"methodName"`
	Seconds  int             `json:"responseTimeoutInSeconds"`
	Payload  json.RawMessage `json:"payload"`
}

func methodCallOf(args []string, payload json.RawMessage, timeout time.Duration) serviceCall {
	return serviceCall{gateway.IdentityID(args[0]), args[1], int(timeout.Round(time.Second).Seconds()), payload}
}

// methodAnswer is what a device answered to a direct method (METH-13).
type methodAnswer struct {
	Status  int             `json:"status"`
	Payload json.RawMessage `json:"payload"`
}

// call invokes a direct method and waits for the device's answer.
func (h *hubClient) call(ctx context.Context, call serviceCall) (methodAnswer, error) {
	var answer methodAnswer
	err := h.do(ctx, http.MethodPost, hubPath("/twins/", call.identity)+"/methods?"+hubAPI, call, &answer)
	return answer, err
}

// showAnswer prints what a device answered, and fails if it says that it did not do it.
func showAnswer(io streams, answer methodAnswer, took time.Duration, asJSON bool) error {
	if asJSON {
		if err := printJSON(io.out, answer); err != nil {
			return err
		}
	} else {
		var body bytes.Buffer
		if err := json.Indent(&body, answer.Payload, "", "  "); err != nil {
			body.Write(answer.Payload)
		}
		fmt.Fprintf(io.err, "status %d after %d ms\n", answer.Status, took.Milliseconds())
		fmt.Fprintln(io.out, body.String())
	}
	if answer.Status >= 400 {
		return &failure{code: exitFailed}
	}
	return nil
}

func hubTokenCommand(io streams, o *hubOptions) *cobra.Command {
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
		Example:           "  mosquitto_pub ... -P \"$(gateway hub token boiler-plc)\"\n  curl ... -H \"Authorization: $(gateway hub token --service)\"",
		Args:              words(cobra.MaximumNArgs(1)),
		ValidArgsFunction: completeIdentities(o, nil),
		RunE: func(c *cobra.Command, args []string) error {
			switch {
			case service == (len(args) == 1):
				return &failure{exitUsage, errors.New("name a device, or say --service")}
			case life <= 0:
				return &failure{exitUsage, fmt.Errorf("--ttl %v: a token must hold for some time", life)}
			}
			hub, err := o.client()
			if err != nil {
				return err
			}
			expires := time.Now().Add(life)
			token, err := hub.token(c.Context(), args, life)
			if err != nil {
				return err
			}
			if o.asJSON {
				return printJSON(io.out, map[string]any{"token": token.Reveal(), "expires": expires.UTC().Truncate(time.Second)})
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
	device, err := h.device(ctx, id)
	if err != nil {
		return identity.Secret{}, err
	}
	key := device.Authentication.SymmetricKey.PrimaryKey
	if key == "" {
		return identity.Secret{}, fmt.Errorf("%s has no shared access key: it proves itself with a certificate", id)
	}
	sas, err := identity.NewSAS(h.host, id, identity.NewSecret(key), life)
	if err != nil {
		return identity.Secret{}, err
	}
	login, err := sas.Login(ctx, identity.Attempt{Now: time.Now()})
	return login.Password, err
}
