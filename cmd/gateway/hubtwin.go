package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"strings"

	"github.com/jedib0t/go-pretty/v6/text"
	"github.com/spf13/cobra"

	gateway "iothub-gateway"
)

func hubTwinCommand(io streams, o *hubOptions) *cobra.Command {
	c := &cobra.Command{
		Use:   "twin",
		Short: "A device's twin: get it, change its desired properties and tags",
		Long: `twin reads and changes the document that a device and the cloud share: the cloud writes tags and desired
properties, the device reports properties.

  gateway hub twin get dev1
  gateway hub twin patch dev1 '{"interval": 10, "old": null}'
  gateway hub twin patch dev1 --tags '{"hall": 3}'`,
	}
	c.AddCommand(twinGetCommand(io, o), twinPatchCommand(io, o))
	return group(c)
}

func twinGetCommand(io streams, o *hubOptions) *cobra.Command {
	var desired, reported, tags bool
	c := &cobra.Command{
		Use:   "get DEVICE[/MODULE]",
		Short: "Show the twin of a device or module",
		Long: `get shows the desired and reported properties and the tags of a twin, or with a flag one of them in JSON.
With --json it is what the hub has, with the time of each property and the etag.

Exit code: 0 shown, 1 it cannot be read, 2 wrong command line, 4 there is no such device or module.`,
		Example:           "  gateway hub twin get dev1\n  gateway hub twin get dev1/camera --reported | jq .temperature",
		Args:              words(cobra.ExactArgs(1)),
		ValidArgsFunction: completeIdentities(o, nil),
		RunE: func(c *cobra.Command, args []string) error {
			hub, err := o.client()
			if err != nil {
				return err
			}
			var whole json.RawMessage
			if err := hub.do(c.Context(), http.MethodGet, twinPath(args[0]), nil, &whole); err != nil {
				return err
			}
			parts, err := partsOf(whole)
			if err != nil {
				return err
			}
			for i, only := range []bool{desired, reported, tags} {
				switch {
				case only && o.asJSON:
					return printJSON(io.out, parts[i].members)
				case only:
					return printJSON(io.out, parts[i].own())
				}
			}
			return showTwin(io.out, whole, o.asJSON)
		},
	}
	c.Flags().BoolVar(&desired, "desired", false, "only the desired properties")
	c.Flags().BoolVar(&reported, "reported", false, "only the reported properties")
	c.Flags().BoolVar(&tags, "tags", false, "only the tags")
	c.MarkFlagsMutuallyExclusive("desired", "reported", "tags")
	return c
}

// twinPart is a part of a twin: its members, with those of the hub, whose names begin with $.
type twinPart struct {
	name    string
	members map[string]json.RawMessage
}

// own are the members that are not the hub's.
func (p *twinPart) own() map[string]json.RawMessage {
	own := maps.Clone(p.members)
	maps.DeleteFunc(own, func(name string, _ json.RawMessage) bool { return strings.HasPrefix(name, "$") })
	return own
}

// partsOf are the desired and reported properties and the tags of a twin.
func partsOf(whole json.RawMessage) (parts [3]twinPart, err error) {
	var twin struct {
		Tags       map[string]json.RawMessage
		Properties struct{ Desired, Reported map[string]json.RawMessage }
	}
	err = json.Unmarshal(whole, &twin)
	parts = [3]twinPart{{"desired", twin.Properties.Desired}, {"reported", twin.Properties.Reported}, {"tags", twin.Tags}}
	for i := range parts {
		if parts[i].members == nil {
			parts[i].members = map[string]json.RawMessage{}
		}
	}
	return parts, err
}

// showTwin prints a twin: for people its three parts, for programs what the hub has.
func showTwin(w io.Writer, whole json.RawMessage, asJSON bool) error {
	if asJSON {
		return printJSON(w, whole)
	}
	parts, err := partsOf(whole)
	if err != nil {
		return err
	}
	for _, p := range parts {
		heading := strings.ToUpper(p.name)
		if version := p.members["$version"]; version != nil {
			heading += ", version " + string(version)
		}
		if terminal(w) {
			heading = text.Bold.Sprint(heading)
		}
		fmt.Fprintln(w, heading)
		if err := printJSON(w, p.own()); err != nil {
			return err
		}
	}
	return nil
}

func twinPath(identity string) string {
	return hubPath("/twins/", gateway.IdentityID(identity)) + "?" + hubAPI
}

// twinOptions are the flags of twin patch.
type twinOptions struct {
	tags, whole, replace bool
	etag                 string
}

func twinPatchCommand(io streams, o *hubOptions) *cobra.Command {
	var t twinOptions
	c := &cobra.Command{
		Use:   "patch DEVICE[/MODULE] [JSON|-]",
		Short: "Change desired properties or tags of a device or module",
		Long: `patch merges JSON into the desired properties of a twin: what it names is set, null deletes, the rest stays.
With --tags it is merged into the tags, with --whole it is a twin with tags and properties.desired. Without
JSON, or with -, it is read from the standard input. A connected device is told at once. It shows the twin
as it is then.

Exit code: 0 changed, 1 not changed (also: the etag is another by now), 2 wrong command line, 4 there is no
such device or module.`,
		Example: `  gateway hub twin patch dev1 '{"interval": 10, "old": null}'
  gateway hub twin patch dev1 --tags '{"hall": 3}'
  gateway hub twin patch dev1 --whole --if-match AAAAAAAAAAI= < twin.json`,
		Args:              words(cobra.RangeArgs(1, 2)),
		ValidArgsFunction: completeIdentities(o, nil),
		RunE: func(c *cobra.Command, args []string) error {
			wish, err := jsonInput(io.in, args, 1)
			if err != nil {
				return err
			}
			request, err := t.request(args[0], wish)
			if err != nil {
				return err
			}
			hub, err := o.client()
			if err != nil {
				return err
			}
			var now json.RawMessage
			if _, err := hub.ask(c.Context(), request, &now); err != nil {
				return err
			}
			return showTwin(io.out, now, o.asJSON)
		},
	}
	f := c.Flags()
	f.BoolVar(&t.tags, "tags", false, "the JSON is about the tags")
	f.BoolVar(&t.whole, "whole", false, "the JSON is a twin: {\"tags\": {..}, \"properties\": {\"desired\": {..}}}")
	f.BoolVar(&t.replace, "replace", false, "with --whole: tags and desired properties that the JSON does not name go")
	f.StringVar(&t.etag, "if-match", "*", "change it only if the twin's etag is still this one")
	c.MarkFlagsMutuallyExclusive("tags", "whole")
	return c
}

// request is the request that changes a twin as the flags say. A whole twin that was taken for desired
// properties would be stored as such, so it is refused.
func (t *twinOptions) request(identity string, wish json.RawMessage) (r hubRequest, err error) {
	var body map[string]json.RawMessage
	if err := json.Unmarshal(wish, &body); err != nil {
		return r, &failure{exitUsage, errors.New("a twin is changed by a JSON object, such as '{\"interval\": 10}'")}
	}
	_, named := body["properties"]
	switch {
	case t.replace && !t.whole:
		return r, &failure{exitUsage, errors.New("--replace is about a whole twin: add --whole")}
	case named && !t.whole:
		return r, &failure{exitUsage, fmt.Errorf("this looks like a whole twin: add --whole, or name the desired properties alone")}
	}
	r = hubRequest{method: http.MethodPatch, path: twinPath(identity), header: ifMatch(t.etag)}
	switch {
	case t.whole:
		r.body = body
	case t.tags:
		r.body = map[string]any{"tags": body}
	default:
		r.body = map[string]any{"properties": map[string]any{"desired": body}}
	}
	if t.replace {
		r.method = http.MethodPut
	}
	return r, nil
}
