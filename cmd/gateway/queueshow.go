package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/spf13/cobra"

	"iothub-gateway/internal/control"
)

func queueShowCommand(io streams, o *queueOptions) *cobra.Command {
	query := entryQuery{}
	c := &cobra.Command{
		Use:   "show DEVICE[/MODULE]",
		Short: "Show the next messages of one identity",
		Long: `show lists the messages of one identity in the order in which they will be sent: the sequence in the
lane, the time of the reading, its age, and the body. A gap stands for messages that were dropped;
its body says how many, which and why. Looking changes nothing and delays nothing.

Exit code: 0 shown, 1 there is no such lane or it cannot be read, 2 wrong command line.`,
		Example: "  gateway queue show boiler-plc\n  gateway queue show boiler-plc --after 4711 --limit 100\n  gateway queue show boiler-plc --json",
		Args:    words(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			if query.limit < 1 {
				return &failure{exitUsage, fmt.Errorf("--limit %d: show at least one message", query.limit)}
			}
			query.identity = args[0]
			return o.withQueue(c.Context(), func(q queueAccess) error { return showEntries(c.Context(), io, q, query, o.asJSON) })
		},
	}
	c.Flags().Uint64Var(&query.after, "after", 0, "begin behind this sequence")
	c.Flags().Int64Var(&query.limit, "limit", 20, "how many messages")
	return c
}

// showEntries prints what a query finds: JSON lines, or a table.
func showEntries(ctx context.Context, io streams, q queueAccess, query entryQuery, asJSON bool) error {
	page, err := q.page(ctx)
	if err != nil {
		return err
	}
	lane, err := laneOf(page, query.identity)
	if err != nil {
		return err
	}
	if asJSON {
		encoder := json.NewEncoder(io.out)
		return q.entries(ctx, query, func(e control.QueueEntry) error { return encoder.Encode(e) })
	}
	now, last, shown := time.Now(), uint64(0), int64(0)
	t := newTable(io.out, "sequence", "created", "age", "body")
	err = q.entries(ctx, query, func(e control.QueueEntry) error {
		shown++
		last = e.Last
		t.AppendRow(table.Row{sequences(e), e.Created.Local().Format(time.DateTime), since(e.Created, now), clip(string(e.Body), 100)})
		return nil
	})
	if shown > 0 {
		t.Render()
	}
	switch {
	case err != nil:
		return err
	case lane.Entries == 0:
		fmt.Fprintf(io.out, "nothing waits for %s\n", query.identity)
	case shown == query.limit:
		fmt.Fprintf(io.out, "\n%s messages of %s wait; go on with --after %d\n", humanize.Comma(lane.Entries), query.identity, last)
	}
	return nil
}

// sequences is the number of an entry, or the numbers that a gap covers.
func sequences(e control.QueueEntry) string {
	if e.Gap {
		return fmt.Sprintf("gap %d-%d", e.First, e.Last)
	}
	return fmt.Sprint(e.Last)
}

// clip shortens a text for a table.
func clip(s string, most int) string {
	if runes := []rune(s); len(runes) > most {
		return string(runes[:most-1]) + "…"
	}
	return s
}

func queueExportCommand(io streams, o *queueOptions) *cobra.Command {
	var path string
	c := &cobra.Command{
		Use:   "export [DEVICE[/MODULE]...]",
		Short: "Write what waits as JSON lines, of some identities or of all",
		Long: `export writes one JSON object a line and message: identity, message id, sequences, time, properties and
body. It takes nothing out of the queue. To the standard output, or with --output to a file, which
appears under its name only when it is whole.

Exit code: 0 all was written, 1 something could not be read or written, 2 wrong command line.`,
		Example: "  gateway queue export | gzip > backlog.jsonl.gz\n  gateway queue export boiler-plc --output boiler.jsonl",
		RunE: func(c *cobra.Command, args []string) error {
			return o.withQueue(c.Context(), func(q queueAccess) error {
				if path == "" {
					return exportEntries(c.Context(), io, q, args)
				}
				return exportFile(c.Context(), io, q, args, path)
			})
		},
	}
	c.Flags().StringVarP(&path, "output", "o", "", "file to write; without it the standard output")
	return c
}

// exportFile exports into a file that is whole once it has its name.
func exportFile(ctx context.Context, io streams, q queueAccess, identities []string, path string) error {
	file, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-")
	if err != nil {
		return fmt.Errorf("--output %s: no file can be made there: %w", path, errors.Unwrap(err))
	}
	defer os.Remove(file.Name()) // it is not there any more once all went well
	err = exportEntries(ctx, streams{out: file, err: io.err}, q, identities)
	if err = errors.Join(err, file.Sync(), file.Close()); err != nil {
		return err
	}
	return os.Rename(file.Name(), path)
}

// exportEntries writes the entries of some identities, or of all, as JSON lines.
func exportEntries(ctx context.Context, io streams, q queueAccess, identities []string) error {
	page, err := q.page(ctx)
	if err != nil {
		return err
	}
	lanes := page.Lanes
	if len(identities) > 0 {
		lanes = nil
		for _, id := range identities {
			lane, err := laneOf(page, id)
			if err != nil {
				return err
			}
			lanes = append(lanes, lane)
		}
	}
	encoder := json.NewEncoder(io.out)
	_, err = walkLanes(ctx, q, lanes, newProgress(io.err, "exported"), func(e control.QueueEntry) error { return encoder.Encode(e) })
	return err
}

// walkLanes calls each with every entry of the lanes, in their order, and says how many there were. A
// lane that cannot be read to its end does not keep the others from being read.
func walkLanes(ctx context.Context, q queueAccess, lanes []control.LaneStatus, p *progress, each func(control.QueueEntry) error) (n int64, err error) {
	var total int64
	for _, l := range lanes {
		total += l.Entries
	}
	var errs []error
	for _, l := range lanes {
		if l.Entries == 0 {
			continue
		}
		err := q.entries(ctx, entryQuery{identity: l.Identity}, func(e control.QueueEntry) error {
			n++
			p.show(n, total)
			return each(e)
		})
		if ctx.Err() != nil {
			errs = append(errs, ctx.Err())
			break
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", l.Identity, err))
		}
	}
	p.end()
	return n, errors.Join(errs...)
}

// progress is a line on a terminal that says how far long work has come; to anybody else it says
// nothing.
type progress struct {
	w     io.Writer // nil: nobody looks
	what  string
	next  time.Time
	shown bool
}

func newProgress(w io.Writer, what string) *progress {
	p := &progress{what: what, next: time.Now().Add(500 * time.Millisecond)}
	if terminal(w) {
		p.w = w
	}
	return p
}

func (p *progress) show(n, total int64) {
	if p.w == nil || n%256 != 0 || time.Now().Before(p.next) {
		return
	}
	p.next, p.shown = time.Now().Add(200*time.Millisecond), true
	fmt.Fprintf(p.w, "\r%s of %s %s (%d %%) ", humanize.Comma(n), humanize.Comma(total), p.what, 100*n/max(1, total, n))
}

func (p *progress) end() {
	if p.shown {
		fmt.Fprint(p.w, "\r\x1b[K")
	}
}
