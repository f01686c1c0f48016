package main

import (
	"crypto/rand"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"iothub-gateway/hubsim"
)

// sendOptions are the flags of send.
type sendOptions struct {
	hubsim.CloudMessage
	properties []string
	expires    time.Duration
}

func hubSendCommand(io streams, o *hubOptions) *cobra.Command {
	var m sendOptions
	c := &cobra.Command{
		Use:   "send DEVICE [BODY|-]",
		Short: "Send a cloud-to-device message (to the simulator)",
		Long: `send puts a message into the queue of a device, which may be offline, and prints its message id. Without
BODY, or with -, the body is read from the standard input, as it is. With --ack the hub says later what became
of it: GET /hubsim/feedback in docs/hubsim.md.

IoT Hub takes such messages over AMQP only; there use az iot device c2d-message send.

Exit code: 0 it waits for the device, 1 it does not, 2 wrong command line, 4 there is no such device.`,
		Example: `  gateway hub send dev1 '{"open": true}' --content-type application/json --property line=3
  gateway hub send dev1 'close the valve' --ack full --expires 10m
  gateway hub send dev1 - < recipe.bin`,
		Args:              words(cobra.RangeArgs(1, 2)),
		ValidArgsFunction: completeIdentities(o, nil),
		RunE: func(c *cobra.Command, args []string) error {
			body, err := input(io.in, args, 1)
			if err != nil {
				return err
			}
			if err := m.settle(args[0], body, time.Now()); err != nil {
				return err
			}
			hub, err := o.client()
			if err != nil {
				return err
			}
			if err := hub.simulatorOnly("sending cloud-to-device messages", "use az iot device c2d-message send, which speaks AMQP"); err != nil {
				return err
			}
			var answer struct {
				MessageID string `json:"messageId"`
			}
			if err := hub.do(c.Context(), http.MethodPost, "/hubsim/devices/"+url.PathEscape(m.Device)+"/messages", m.CloudMessage, &answer); err != nil {
				return err
			}
			if o.asJSON {
				return printJSON(io.out, answer)
			}
			fmt.Fprintln(io.out, answer.MessageID)
			return nil
		},
	}
	f := c.Flags()
	f.StringArrayVarP(&m.properties, "property", "p", nil, "a property NAME=VALUE; may be repeated")
	f.StringVar(&m.MessageID, "message-id", "", "its id (default: a new one)")
	f.StringVar(&m.CorrelationID, "correlation-id", "", "the id of what it belongs to")
	f.StringVar(&m.UserID, "user-id", "", "who sends it")
	f.StringVar(&m.ContentType, "content-type", "", "what the body is, such as application/json")
	f.StringVar(&m.ContentEncoding, "content-encoding", "", "how it is encoded, such as utf-8")
	f.StringVar(&m.Ack, "ack", "", "which outcome to hear of: none, positive, negative or full")
	f.DurationVar(&m.expires, "expires", 0, "it is dropped after this time (default: the hub's, 1h)")
	_ = c.RegisterFlagCompletionFunc("ack", oneOf("none", "positive", "negative", "full"))
	return c
}

// settle completes the message. It always has an id, so that it can be found again.
func (m *sendOptions) settle(device string, body []byte, now time.Time) error {
	if strings.Contains(device, "/") {
		return &failure{exitUsage, fmt.Errorf("%s is a module; cloud-to-device messages go to devices", device)}
	}
	m.Device, m.Body, m.Properties = device, body, map[string]*string{}
	for _, property := range m.properties {
		name, value, ok := strings.Cut(property, "=")
		if !ok {
			return &failure{exitUsage, fmt.Errorf("--property %s: it looks like NAME=VALUE", property)}
		}
		m.Properties[name] = &value
	}
	if m.expires < 0 {
		return &failure{exitUsage, fmt.Errorf("--expires %v: a message must hold for some time", m.expires)}
	}
	if m.expires > 0 {
		m.Expires = now.Add(m.expires).UTC()
	}
	if m.MessageID == "" {
		m.MessageID = rand.Text()
	}
	return nil
}
