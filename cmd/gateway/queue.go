package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
	"github.com/spf13/cobra"

	"iothub-gateway/internal/control"
)

// queueOptions are the flags of every queue command.
type queueOptions struct {
	state, runtime string
	asJSON         bool
}

func queueCommand(io streams) *cobra.Command {
	o := &queueOptions{}
	c := &cobra.Command{
		Use:   "queue",
		Short: "Look into the queue: what waits for the hub, what was given up, is the disk sound",
		Long: `queue looks into the store-and-forward queue between the plant and the hub. Every identity has a lane
of its own in it; what the hub has acknowledged is gone from it.

While a gateway runs it is asked over its control socket. While none runs, the files themselves are
opened, as a gateway does when it starts; on a copy of a queue directory as well. Looking takes nothing
out of the queue.

The usual way:

  gateway queue list                     who waits for what, since when, and why
  gateway queue show boiler-plc          the next messages of one identity
  gateway queue dead list                what the hub refused for good`,
	}
	flags := c.PersistentFlags()
	flags.StringVar(&o.state, "state-dir", stateDir(), "directory that the queue stands in")
	flags.StringVar(&o.runtime, "runtime-dir", runtimeDir(), "directory of the control socket")
	flags.BoolVar(&o.asJSON, "json", false, "print JSON for programs")
	c.AddCommand(queueListCommand(io, o), queueShowCommand(io, o), queueExportCommand(io, o), queueDropCommand(io, o),
		queueDeadCommand(io, o), queueVerifyCommand(io, o), queueRepairCommand(io, o))
	return group(c)
}

// withQueue calls f with the queue for reading.
func (o *queueOptions) withQueue(ctx context.Context, f func(queueAccess) error) error {
	q, err := readQueue(ctx, o)
	if err != nil {
		return err
	}
	return errors.Join(f(q), q.close())
}

func queueListCommand(io streams, o *queueOptions) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "Show every lane: how much waits, since when, and the last error",
		Long: `list shows one line for each identity: the messages that wait for the hub, their size in the queue, the
age of the oldest, how many a second came in and went out over the last minute (while a gateway runs),
how many were dropped since it started, and what stands in the way.

Exit code: 0 the queue is working, 1 it is not, or something was set aside; 2 wrong command line.`,
		Args: words(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			return o.withQueue(c.Context(), func(q queueAccess) error {
				page, err := q.page(c.Context())
				if err != nil {
					return err
				}
				if o.asJSON {
					err = printJSON(io.out, page)
				} else {
					showLanes(io.out, page, q.running, time.Now())
				}
				if err == nil && page.State != queueWorking {
					err = &failure{code: exitFailed}
				}
				return err
			})
		},
	}
}

// The states of a queue that say more than their names: nothing to report, files were set aside,
// nothing can be stored, at its limit.
const (
	queueWorking     = "working"
	queueDegraded    = "degraded"
	queueUnavailable = "unavailable"
	queueFull        = "full"
)

// showLanes prints the page of a queue for a person.
func showLanes(w io.Writer, page control.QueuePage, running bool, now time.Time) {
	who := "no gateway runs"
	if running {
		who = "a gateway runs"
	}
	fmt.Fprintf(w, "%s (%s)\n", queueLine(page.QueueStatus, running), who)
	if trouble := queueTrouble(page.QueueStatus); trouble != "" {
		if terminal(w) {
			trouble = text.FgYellow.Sprint(trouble)
		}
		fmt.Fprintln(w, trouble)
	}
	if doubt := clockDoubt(page.QueueStatus); doubt != "" {
		fmt.Fprintln(w, doubt)
	}
	fmt.Fprintln(w)
	if len(page.Lanes) == 0 {
		fmt.Fprintln(w, "No identity has ever put anything into it.")
		return
	}
	t := newTable(w, "identity", "waiting", "size", "oldest", "in/s", "out/s", "dropped", "last error")
	for _, l := range page.Lanes {
		dropped := "-" // nobody has counted
		if running {
			dropped = humanize.Comma(int64(l.Dropped))
		}
		t.AppendRow(table.Row{
			l.Identity, humanize.Comma(l.Entries), humanize.IBytes(uint64(l.Bytes)), since(l.Oldest, now),
			perSecond(l.In), perSecond(l.Out), dropped, l.LastError,
		})
	}
	t.Render()
}

// queueLine says in one line how much is in the queue. What was dropped is counted by the gateway that
// runs.
func queueLine(q control.QueueStatus, running bool) string {
	line := fmt.Sprintf("queue %s: %s waiting (%s, in %s of %s); %s accepted since it was made, %s of them delivered or told as a gap", q.Dir,
		humanize.Comma(q.Entries), humanize.IBytes(uint64(q.Bytes)), count(q.Files, "file"), humanize.IBytes(uint64(q.Size)),
		humanize.Comma(int64(q.Put)), humanize.Comma(int64(q.Acked)))
	if running {
		line += fmt.Sprintf("; %s dropped since the gateway started", humanize.Comma(int64(q.Dropped)))
	}
	return line
}

// queueTrouble says what is not well with the queue; "" if all is.
func queueTrouble(q control.QueueStatus) string {
	if q.State == queueWorking {
		return ""
	}
	line := "the queue is " + q.State
	if q.Reason != "" {
		line += ": " + q.Reason
	}
	if len(q.Aside) > 0 && q.State != queueDegraded { // whose reason names them
		line += "; set aside: " + strings.Join(q.Aside, ", ")
	}
	return line
}

// clockDoubt says what follows from a clock that is not known to be right; "" if it is.
func clockDoubt(q control.QueueStatus) string {
	if q.Clock != unsynchronised.String() && q.Clock != clockBehind {
		return ""
	}
	return "the clock is " + q.Clock + ": messages are marked gateway-clock, and max_age does not count; start chrony or systemd-timesyncd, or run with --trust-clock"
}

// perSecond is a rate to two digits; "-" where nobody knows it.
func perSecond(rate *float64) string {
	switch {
	case rate == nil:
		return "-"
	case *rate == 0:
		return "0"
	}
	return humanize.FtoaWithDigits(*rate, 2)
}

// laneOf finds the lane of an identity, or says which there are.
func laneOf(page control.QueuePage, identity string) (control.LaneStatus, error) {
	names := map[string]bool{}
	for _, l := range page.Lanes {
		if l.Identity == identity {
			return l, nil
		}
		names[l.Identity] = true
	}
	if len(names) == 0 {
		return control.LaneStatus{}, fmt.Errorf("the queue has no lane of %s, nor of anybody", identity)
	}
	return control.LaneStatus{}, fmt.Errorf("the queue has no lane of %s; it has %s", identity, strings.Join(slices.Sorted(maps.Keys(names)), ", "))
}

// confirm asks a person; without one it is a usage error that names --yes.
func confirm(io streams, question string) error {
	if !interactive(io.in) {
		return &failure{exitUsage, fmt.Errorf("%s\nadd --yes if that is what you want", question)}
	}
	fmt.Fprintf(io.err, "%s\nType yes to go on: ", question)
	answer, err := bufio.NewReader(io.in).ReadString('\n')
	if err != nil && answer == "" {
		fmt.Fprintln(io.err)
	}
	if strings.TrimSpace(answer) != "yes" {
		return &failure{exitFailed, errors.New("nothing was changed")}
	}
	return nil
}
