package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/spf13/cobra"

	"iothub-gateway/internal/control"
)

// changeQueue calls f with the queue for changing: the running gateway's, or else the files under lock.
func (o *queueOptions) changeQueue(ctx context.Context, f func(queueAccess) error) error {
	q, err := writeQueue(ctx, o)
	if err != nil {
		return err
	}
	return errors.Join(f(q), q.close())
}

func queueDropCommand(io streams, o *queueOptions) *cobra.Command {
	var yes, all bool
	c := &cobra.Command{
		Use:   "drop DEVICE[/MODULE]",
		Short: "Give up what waits of one identity; asks first",
		Long: `drop removes every message of one identity that waits and is not under way. They are gone for good:
export them first if somebody may still want them. In their place a gap message tells the cloud how
many there were and of which time, with the reason "operator".

It is for an identity that will never be connected again, or whose backlog nobody needs. The oldest
messages may have been sent before the gateway was last started: they stay, so that the cloud never
hears that a message is gone which it has. With --all they go too.

Exit code: 0 dropped, 1 not dropped, 2 wrong command line.`,
		Example: "  gateway queue export old-press --output old-press.jsonl && gateway queue drop old-press",
		Args:    words(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			return o.changeQueue(c.Context(), func(q queueAccess) error {
				page, err := q.page(c.Context())
				if err != nil {
					return err
				}
				lane, err := laneOf(page, args[0])
				if err != nil {
					return err
				}
				if !yes && lane.Entries > 0 {
					if err := confirm(io, dropQuestion(lane, time.Now())); err != nil {
						return err
					}
				}
				n, err := q.drop(c.Context(), args[0], all)
				if err != nil {
					return err
				}
				return o.dropped(io, lane, n, all)
			})
		},
	}
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	c.Flags().BoolVar(&all, "all", false, "drop also what may have been sent before the last start: for an identity that never comes back")
	return c
}

// dropped says what of a lane, as it was before, was dropped, and why not the rest; all is --all. That nothing
// could be dropped of what waits is a failure.
func (o *queueOptions) dropped(io streams, before control.LaneStatus, n int64, all bool) error {
	why := "may be on the way to the hub already, or sent before the last start (then --all drops them)"
	if all {
		why = "may be on the way to the hub already"
	}
	sentence := fmt.Sprintf("%s of %s dropped; a gap message tells the cloud", count(int(n), "message"), before.Identity)
	var failed error
	switch {
	case before.Entries == 0:
		sentence = "nothing waits for " + before.Identity
	case n == 0:
		sentence = fmt.Sprintf("nothing of %s was dropped: %s %s", before.Identity, count(int(before.Entries), "message"), why)
		failed = &failure{code: exitFailed}
	case n < before.Entries:
		sentence += fmt.Sprintf("; %d %s, and wait on", before.Entries-n, why)
	}
	return errors.Join(o.done(io, map[string]any{"identity": before.Identity, "dropped": n}, sentence), failed)
}

func dropQuestion(lane control.LaneStatus, now time.Time) string {
	return fmt.Sprintf("This drops %s messages of %s (%s, the oldest waits for %s) for good, but for those under way.",
		humanize.Comma(lane.Entries), lane.Identity, humanize.IBytes(uint64(lane.Bytes)), since(lane.Oldest, now))
}

// done says what was done, to a person or to a program.
func (o *queueOptions) done(io streams, v any, sentence string) error {
	if o.asJSON {
		return printJSON(io.out, v)
	}
	_, err := fmt.Fprintln(io.out, sentence)
	return err
}

func queueDeadCommand(io streams, o *queueOptions) *cobra.Command {
	c := &cobra.Command{
		Use:   "dead",
		Short: "Dead letters: what the hub never took, and why; send it again or let it go",
		Long: `A message that the hub refuses again and again would hold up everything behind it. It becomes a dead
letter: set aside with the reason, a gap message in its place. The newest 10 000, or 64 MiB, are kept.`,
	}
	c.AddCommand(deadListCommand(io, o), deadShowCommand(io, o), deadReplayCommand(io, o), deadDropCommand(io, o))
	return group(c)
}

func deadListCommand(io streams, o *queueOptions) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "Show every dead letter and why it is one",
		Long:  "list shows the dead letters, oldest first.\n\nExit code: 0 listed, also if there are none; 1 they cannot be read; 2 wrong command line.",
		Args:  words(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			return o.withQueue(c.Context(), func(q queueAccess) error {
				letters, err := q.dead(c.Context())
				if err != nil {
					return err
				}
				if o.asJSON {
					return printJSON(io.out, letters)
				}
				if len(letters) == 0 {
					fmt.Fprintln(io.out, "There are no dead letters: the hub has taken all that was sent.")
					return nil
				}
				now := time.Now()
				t := newTable(io.out, "id", "identity", "given up", "reason", "body")
				for _, l := range letters {
					t.AppendRow(table.Row{l.ID, l.Identity, since(l.Time, now) + " ago", clip(l.Reason, 60), clip(string(l.Body), 60)})
				}
				t.Render()
				return nil
			})
		},
	}
}

// letter finds a dead letter.
func letter(ctx context.Context, q queueAccess, id string) (control.DeadLetter, error) {
	letters, err := q.dead(ctx)
	if err != nil {
		return control.DeadLetter{}, err
	}
	i := slices.IndexFunc(letters, func(l control.DeadLetter) bool { return l.ID == id })
	if i < 0 {
		return control.DeadLetter{}, fmt.Errorf("there is no dead letter %s; see 'gateway queue dead list'", id)
	}
	return letters[i], nil
}

func deadShowCommand(io streams, o *queueOptions) *cobra.Command {
	return &cobra.Command{
		Use:   "show ID",
		Short: "Show one dead letter in full, as JSON",
		Long: "show prints one dead letter as JSON: its reason, its properties and its whole body.\n\n" +
			"Exit code: 0 shown, 1 there is no such dead letter, 2 wrong command line.",
		Args: words(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			return o.withQueue(c.Context(), func(q queueAccess) error {
				l, err := letter(c.Context(), q, args[0])
				if err != nil {
					return err
				}
				return printJSON(io.out, l)
			})
		},
	}
}

func deadReplayCommand(io streams, o *queueOptions) *cobra.Command {
	return &cobra.Command{
		Use:   "replay ID...",
		Short: "Put dead letters back into the queue, behind what waits",
		Long: `replay makes each dead letter a new message at the end of its identity's lane, with a new message id and
its old time, and removes it from the dead letters. Do it once the cause is gone: the hub that refused
it as it was will refuse it again.

Exit code: 0 all are in the queue, 1 one is not, or there is no such dead letter; 2 wrong command line.`,
		Example: "  gateway queue dead replay 5f0c2a9e8b7d6e51-4711",
		Args:    words(cobra.MinimumNArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			return o.changeQueue(c.Context(), func(q queueAccess) error {
				return eachLetter(c.Context(), q, args, q.replay, func() error {
					return o.done(io, map[string]any{"replayed": args}, count(len(args), "dead letter")+" put back into the queue")
				})
			})
		},
	}
}

func deadDropCommand(io streams, o *queueOptions) *cobra.Command {
	var yes bool
	c := &cobra.Command{
		Use:   "drop ID...",
		Short: "Forget dead letters for good; asks first",
		Long: "drop forgets dead letters. The cloud has had a gap message for each already.\n\n" +
			"Exit code: 0 forgotten, 1 not, or there is no such dead letter; 2 wrong command line.",
		Args: words(cobra.MinimumNArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			return o.changeQueue(c.Context(), func(q queueAccess) error {
				if !yes {
					if err := confirm(io, fmt.Sprintf("This forgets %s for good.", count(len(args), "dead letter"))); err != nil {
						return err
					}
				}
				return eachLetter(c.Context(), q, args, q.forget, func() error {
					return o.done(io, map[string]any{"dropped": args}, count(len(args), "dead letter")+" dropped")
				})
			})
		},
	}
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return c
}

// eachLetter does something with dead letters, all of which exist, and then tells.
func eachLetter(ctx context.Context, q queueAccess, ids []string, do func(context.Context, string) error, tell func() error) error {
	for _, id := range ids {
		if _, err := letter(ctx, q, id); err != nil {
			return err
		}
	}
	for _, id := range ids {
		if err := do(ctx, id); err != nil {
			return fmt.Errorf("dead letter %s: %w", id, err)
		}
	}
	return tell()
}
