package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/dustin/go-humanize"
	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/spf13/cobra"

	"iothub-gateway/buffer"
	"iothub-gateway/internal/control"
)

// verdict is what verify found, of the queue or of one file.
type verdict struct {
	File    string `json:"file,omitempty"` // "": the messages as the running gateway reads them
	Format  uint32 `json:"format,omitempty"`
	Records int64  `json:"records"`
	Bytes   int64  `json:"bytes,omitempty"`
	Trouble string `json:"trouble,omitempty"` // "" if all is as it was written
}

func queueVerifyCommand(io streams, o *queueOptions) *cobra.Command {
	return &cobra.Command{
		Use:   "verify",
		Short: "Read everything that waits and check that it is what was written",
		Long: `verify reads the queue from end to end. While no gateway runs it checks every page, key and checksum of
every file, each in a process of its own. While one runs, whose files change all the time, it reads
every message through it: each must be whole, and in its lane no number may be missing.

It changes nothing. Reading 2 GiB takes some seconds, on a slow disk a minute.

Exit code: 0 all is as it was written, 1 something is damaged or was set aside, 2 wrong command line.`,
		Args: words(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			asked, running, err := askDaemon(c.Context(), o)
			if err != nil {
				return err
			}
			var found []verdict
			if running {
				found, err = verifyMessages(c.Context(), io, asked)
			} else {
				found, err = verifyFiles(c.Context(), io, o.queueDir())
			}
			if err != nil {
				return err
			}
			return o.report(io, found)
		},
	}
}

// report shows what verify found and fails if that is trouble.
func (o *queueOptions) report(io streams, found []verdict) error {
	trouble := 0
	t := newTable(io.out, "file", "records", "size", "verdict")
	for _, v := range found {
		name, says := v.File, "sound"
		records, size := humanize.Comma(v.Records), humanize.IBytes(uint64(v.Bytes))
		if name == "" {
			name = "(what waits)"
		}
		if v.Trouble != "" {
			trouble++
			says = v.Trouble
		}
		if v.Trouble == wasSetAside { // and not read
			records, size = "-", "-"
		}
		t.AppendRow(table.Row{name, records, size, says})
	}
	if o.asJSON {
		if err := printJSON(io.out, found); err != nil {
			return err
		}
	} else {
		t.Render()
	}
	if trouble > 0 {
		return &failure{exitFailed, fmt.Errorf("%s to look at; 'gateway queue repair --help' says what can be done", count(trouble, "finding"))}
	}
	return nil
}

// wasSetAside is the trouble of a file that verify does not read.
const wasSetAside = "was set aside"

// verifyMessages reads every message of the running gateway's queue.
func verifyMessages(ctx context.Context, io streams, q queueAccess) ([]verdict, error) {
	page, err := q.page(ctx)
	if err != nil {
		return nil, err
	}
	all := verdict{Bytes: page.Bytes}
	last := map[string]uint64{}
	all.Records, err = walkLanes(ctx, q, page.Lanes, newProgress(io.err, "read"), func(e control.QueueEntry) error {
		before := last[e.Identity]
		last[e.Identity] = e.Last
		if before == 0 || e.First == before+1 || e.Gap && e.First <= before { // a gap that grew meanwhile over what has been read
			return nil
		}
		if e.First > before {
			if left, err := hasLeft(ctx, q, e); left || err != nil {
				return err
			}
		}
		return fmt.Errorf("number %d follows on %d", e.First, before)
	})
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if err != nil {
		all.Trouble = strings.ReplaceAll(err.Error(), "\n", "; ")
	}
	found := []verdict{all}
	for _, path := range page.Aside {
		found = append(found, verdict{File: filepath.Base(path), Trouble: wasSetAside})
	}
	return found, nil
}

// hasLeft tells whether everything before e has left its lane: the hub takes messages, and limits drop them,
// while a lane is read.
func hasLeft(ctx context.Context, q queueAccess, e control.QueueEntry) (left bool, err error) {
	left = true
	err = q.entries(ctx, entryQuery{identity: e.Identity, limit: 1}, func(first control.QueueEntry) error {
		left = first.First >= e.First
		return nil
	})
	return left, err
}

// verifyFiles checks every file of a queue that no gateway has.
func verifyFiles(ctx context.Context, io streams, dir string) ([]verdict, error) {
	entries, err := os.ReadDir(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("there is no queue in %s; name the gateway's --state-dir", filepath.Dir(dir))
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("%w; run it as root, or as the user of the gateway", err)
	case err != nil:
		return nil, err
	}
	release, err := keepOut(dir)
	if err != nil {
		return nil, err
	}
	defer release()
	check := queueFileCheck()
	var found []verdict
	for i, entry := range entries {
		name := entry.Name()
		if aside := strings.Contains(name, ".db."); aside {
			found = append(found, verdict{File: name, Trouble: wasSetAside})
			continue
		}
		if filepath.Ext(name) != ".db" {
			continue
		}
		if terminal(io.err) {
			fmt.Fprintf(io.err, "\rreading %s (%d of %d) \x1b[K", name, i+1, len(entries))
		}
		v, err := verifyFile(ctx, check, filepath.Join(dir, name))
		if err != nil {
			return nil, err
		}
		found = append(found, v)
	}
	if terminal(io.err) {
		fmt.Fprint(io.err, "\r\x1b[K")
	}
	return found, nil
}

// keepOut keeps gateways from the files of dir until release is called; it fails if one has them, which
// would change while they are read.
func keepOut(dir string) (release func(), err error) {
	lock, err := os.Open(filepath.Join(dir, "lock"))
	if errors.Is(err, fs.ErrNotExist) { // a copy that was made without it
		return func() {}, nil
	}
	if err != nil {
		return nil, err
	}
	release = func() { _ = lock.Close() } // it was only locked
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_SH|syscall.LOCK_NB); err != nil {
		release()
		return nil, fmt.Errorf("%s: a gateway runs on it; name its --runtime-dir, or stop it", dir)
	}
	return release, nil
}

// verifyFile checks one file.
func verifyFile(ctx context.Context, check func(context.Context, string) (buffer.Report, error), path string) (verdict, error) {
	report, err := check(ctx, path)
	if ctx.Err() != nil {
		return verdict{}, ctx.Err()
	}
	v := verdict{File: filepath.Base(path), Format: report.Format, Records: report.Records, Bytes: report.Bytes, Trouble: report.Damage}
	switch {
	case err != nil:
		v.Trouble = err.Error()
	case report.Newer():
		v.Trouble = fmt.Sprintf("is of the newer format %d; use the version of the gateway that wrote it", report.Format)
	}
	return v, nil
}

func queueRepairCommand(io streams, o *queueOptions) *cobra.Command {
	return &cobra.Command{
		Use:   "repair",
		Short: "Set damaged files aside and take over what can be read of them",
		Long: `repair does, while no gateway runs, what a gateway does by itself when it starts: a damaged file is set
aside under another name and every record whose checksum is right goes on; what is missing becomes a
gap. What waits in a file that was set aside because a newer gateway, or a former one, wrote it becomes
new messages, once this gateway can read it. No file is deleted.

A running gateway has done so already: stop it first if you want to see it done
(systemctl stop iothub-gateway).

Exit code: 0 the queue is working now, 1 it is not, or a gateway runs; 2 wrong command line.`,
		Args: words(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			_, running, err := askDaemon(c.Context(), o)
			if err != nil {
				return err
			}
			if running {
				return errors.New("a gateway runs on this queue, and has set aside what it could not read; stop it to repair by hand")
			}
			return o.repair(c.Context(), io)
		},
	}
}

// repair opens the queue, which repairs it, and says how it is now.
func (o *queueOptions) repair(ctx context.Context, io streams) error {
	q, err := writeQueue(ctx, o)
	if err != nil {
		return err
	}
	page, err := q.page(ctx)
	if err == nil && o.reclaim(ctx, io, q, page.Aside) {
		page, err = q.page(ctx)
	}
	if err = errors.Join(err, q.close()); err != nil {
		return err
	}
	trouble := queueTrouble(page.QueueStatus)
	if o.asJSON {
		err = printJSON(io.out, page.QueueStatus)
	} else {
		fmt.Fprintf(io.out, "%s\n%s\n", queueLine(page.QueueStatus, false), cmp.Or(trouble, "the queue is sound"))
	}
	if trouble != "" {
		return errors.Join(err, &failure{code: exitFailed})
	}
	return err
}

// reclaim takes in the files that were set aside because they were not this version's, and tells
// whether there was one.
func (o *queueOptions) reclaim(ctx context.Context, io streams, q queueAccess, aside []string) (any bool) {
	for _, path := range aside {
		if strings.Contains(filepath.Base(path), ".damaged-") {
			continue // all that is whole in it is in the queue already
		}
		n, err := q.reclaim(ctx, path)
		if err != nil {
			fmt.Fprintf(problems(io.err), "%v\n", err)
			continue
		}
		any = true
		fmt.Fprintf(io.err, "%s of %s wait for the hub now\n", count(int(n), "message"), filepath.Base(path))
	}
	return any
}
