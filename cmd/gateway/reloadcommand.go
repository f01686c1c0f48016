package main

import (
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/spf13/cobra"

	"iothub-gateway/internal/control"
)

func reloadCommand(io streams) *cobra.Command {
	var runtime string
	var asJSON, dryRun bool
	c := &cobra.Command{
		Use:   "reload",
		Short: "Make the running gateway take over its changed mapping, without a restart",
		Long: `reload makes the running gateway read its mapping again and run what has changed of it, waits until that
is done, and shows what it was. Only links and listeners that changed are restarted, and only identities that
changed connect anew; all others, their devices and what was reported of them are left alone.

If the mapping has any error, a key is missing, or something changed that holds for as long as the process
runs (hub, buffer), nothing changes at all and the reasons are shown.

'systemctl reload iothub-gateway' does the same; so does SIGHUP, whose outcome stands in the log.

Exit code: 0 the mapping runs, or would with --dry-run; 1 it was refused, or no gateway runs; 2 wrong command
line.`,
		Example: "  gateway reload --dry-run\n  gateway reload\n  gateway reload --json",
		Args:    words(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			var reply control.ReloadReply
			client := control.NewClient(filepath.Join(runtime, control.SocketName))
			err := client.Post(c.Context(), resourceReload, control.ReloadRequest{DryRun: dryRun}, &reply)
			if err != nil {
				return orStart(err)
			}
			if asJSON {
				err = printJSON(io.out, reply)
			} else {
				showReload(io, reply)
			}
			if err == nil && len(reply.Refused) > 0 {
				err = &failure{code: exitFailed}
			}
			return err
		},
	}
	c.Flags().StringVar(&runtime, "runtime-dir", runtimeDir(), "directory of the control socket")
	c.Flags().BoolVar(&dryRun, "dry-run", false, "only show what would change, and whether it would be refused")
	c.Flags().BoolVar(&asJSON, "json", false, "print the outcome as one JSON object")
	return c
}

// kind is one kind of things with what differs of it, and what is said of those that changed.
type kind struct {
	name, noun, changed string
	control.Difference
}

func kinds(c control.Changes) []kind {
	return []kind{
		{"identities", "identity", "reconnected", c.Identities}, {"links", "link", "restarted", c.Links},
		{"listeners", "listener", "restarted", c.Listeners}, {"points", "point", "changed", c.Points},
		{"commands", "command", "changed", c.Commands},
	}
}

// short counts what differs: "1 added, 2 removed"; "" if nothing does.
func (k kind) short() string {
	var parts []string
	for _, part := range []struct {
		n    int
		word string
	}{{len(k.Added), "added"}, {len(k.Removed), "removed"}, {len(k.Changed), k.changed}} {
		if part.n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", part.n, part.word))
		}
	}
	return strings.Join(parts, ", ")
}

// showReload shows a reload to a person.
func showReload(io streams, r control.ReloadReply) {
	for _, f := range r.Findings {
		fmt.Fprintf(io.err, "%s:%d:%d: %s %s\n", f.File, f.Line, f.Column, f.Code, f.Message)
	}
	if len(r.Refused) > 0 {
		outcome := "was refused; nothing has changed, the gateway runs on with the mapping before"
		if r.DryRun {
			outcome = "would be refused"
		}
		fmt.Fprintf(io.err, "%s %s:\n  %s\n", r.Mapping, outcome, strings.Join(r.Refused, "\n  "))
		return
	}
	if r.DryRun {
		fmt.Fprintf(io.out, "%s would be taken over; nothing has changed\n", r.Mapping)
	} else {
		fmt.Fprintf(io.out, "%s was taken over in %s\n", r.Mapping, r.Took)
	}
	showChanges(io.out, *r.Changes)
}

func showChanges(w io.Writer, c control.Changes) {
	t := newTable(w, "what", "name", "change", "why")
	var alone []string
	for _, k := range kinds(c) {
		for _, name := range k.Added {
			t.AppendRow(table.Row{k.noun, name, "added"})
		}
		for _, name := range k.Removed {
			t.AppendRow(table.Row{k.noun, name, "removed"})
		}
		for _, change := range k.Changed {
			t.AppendRow(table.Row{k.noun, change.Name, k.changed, strings.Join(change.Why, ", ")})
		}
		alone = append(alone, count(k.Untouched, k.noun))
	}
	if t.Length() > 0 {
		fmt.Fprintln(w)
		t.Render()
		fmt.Fprintln(w)
	}
	for _, other := range c.Other {
		fmt.Fprintln(w, other)
	}
	if t.Length() == 0 && len(c.Other) == 0 {
		fmt.Fprintln(w, "nothing differs")
	}
	fmt.Fprintf(w, "left alone: %s\n", strings.Join(alone, ", "))
}
