package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/spf13/cobra"

	"iothub-gateway/internal/control"
)

func statusCommand(io streams) *cobra.Command {
	var runtime string
	var asJSON bool
	c := &cobra.Command{
		Use:   "status",
		Short: "Ask the running gateway how it is doing",
		Long: `status asks the running gateway over its control socket and shows the queue, every identity's
connection and every field device.

Exit code: 0 all identities are connected, the queue is working, no device is offline, none refuses a point and no link leaves out polls because it is busy, 1 something
is not well or no gateway runs, 2 wrong command line.`,
		Args: words(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			var page control.Status
			err := control.NewClient(filepath.Join(runtime, control.SocketName)).Get(c.Context(), "/status", &page)
			if err != nil {
				return orStart(err)
			}
			if asJSON {
				err = printJSON(io.out, page)
			} else {
				showStatus(io.out, page, time.Now())
			}
			if err == nil && !well(page) {
				err = &failure{code: exitFailed}
			}
			return err
		},
	}
	c.Flags().StringVar(&runtime, "runtime-dir", runtimeDir(), "directory of the control socket")
	c.Flags().BoolVar(&asJSON, "json", false, "print the page as one JSON object")
	return c
}

// orStart adds the remedy to the error that no gateway runs.
func orStart(err error) error {
	if errors.Is(err, control.ErrNotRunning) {
		return fmt.Errorf("%w; start it with 'gateway run', or name its --runtime-dir", err)
	}
	return err
}

// well tells whether everything is connected and the queue is working.
func well(page control.Status) bool {
	if page.Queue.State != queueWorking {
		return false
	}
	for _, id := range page.Identities {
		if !id.Connected {
			return false
		}
	}
	for _, link := range page.Links {
		if overload(link) != "" {
			return false
		}
	}
	for _, device := range page.Devices {
		if device.State == "down" || len(device.Refused) > 0 {
			return false
		}
	}
	return true
}

// hubLines say what is worth knowing of the hubs.
func hubLines(hubs []control.HubStatus) (lines []string) {
	for _, h := range hubs {
		switch {
		case !h.Reachable:
			lines = append(lines, fmt.Sprintf("hub %s cannot be reached; its identities look for it one at a time", h.Hub))
		case h.Busy:
			lines = append(lines, fmt.Sprintf("hub %s is busy: %.3g connections a second are opened there now", h.Hub, h.Connects))
		}
		if h.Quota != nil {
			lines = append(lines, quotaLine(h.Hub, *h.Quota))
		}
	}
	return lines
}

// quotaLine says how a hub's daily quota will do.
func quotaLine(hub string, q control.QuotaStatus) string {
	line := fmt.Sprintf("quota: this gateway has sent %s of the %s messages that %s takes a day", humanize.Comma(q.Used), humanize.Comma(q.Limit), hub)
	switch {
	case q.Used >= q.Limit:
		return line + "; it takes no more until midnight UTC"
	case !q.UsedUp.IsZero():
		return line + "; at this pace the last one goes at " + q.UsedUp.UTC().Format("15:04") + " UTC"
	}
	return line
}

func showStatus(w io.Writer, page control.Status, now time.Time) {
	fmt.Fprintf(w, "gateway (pid %d) for %s is %s, up %s, mapping %s\n", page.PID, cmp.Or(page.Hub, "provisioned devices"), page.State, since(page.Started, now), page.Mapping)
	if page.Loaded.Reloads > 0 {
		fmt.Fprintf(w, "the mapping was taken over %s ago, by reload %d\n", since(page.Loaded.At, now), page.Loaded.Reloads)
	}
	if page.Loaded.Refused != "" {
		fmt.Fprintf(w, "the changed mapping was refused, the one before runs on: %s\n", page.Loaded.Refused)
	}
	for _, reason := range page.Reasons {
		fmt.Fprintf(w, "  %s\n", reason)
	}
	fmt.Fprintln(w, queueLine(page.Queue, true))
	if doubt := clockDoubt(page.Queue); doubt != "" {
		fmt.Fprintln(w, doubt)
	}
	for _, line := range hubLines(page.Hubs) {
		fmt.Fprintln(w, line)
	}
	fmt.Fprintf(w, "%s\n\n", rollCall(page))

	t := newTable(w, "identity", "proof", "hub", "for", "waiting", "oldest", "delivered", "repeated", "last error")
	for _, id := range page.Identities {
		t.AppendRow(table.Row{id.Identity, id.Proof, id.State, since(id.Since, now), id.Waiting, since(id.Oldest, now), id.Acked, id.Repeated, id.LastError})
	}
	t.Render()
	fmt.Fprintln(w)
	showLinks(w, page.Links, now)
	t = newTable(w, "device", "link", "state", "last good", "skipped", "error")
	for _, d := range page.Devices {
		last := since(d.LastGood, now)
		if last != "-" {
			last += " ago"
		}
		state, trouble := deviceState(d), d.Error
		switch {
		case len(d.Refused) > 0:
			trouble = refusal(d)
		case len(d.Holes) > 0 && trouble == "":
			trouble = "none; it is read around " + strings.Join(d.Holes, ", ") + ", which it refuses"
		}
		t.AppendRow(table.Row{d.Device, d.Link, state, last, d.Skipped, trouble})
	}
	t.Render()
}

// deviceState is how a device is, in the words that people read.
func deviceState(d control.DeviceStatus) string {
	if d.State == "down" {
		return "offline"
	}
	return d.State
}

// rollCall counts identities and devices by how they are.
func rollCall(page control.Status) string {
	var identities, devices alike
	for _, id := range page.Identities {
		identities.add(id.State, id.Identity)
	}
	for _, d := range page.Devices {
		devices.add(deviceState(d), d.Device)
	}
	counted := func(noun string, n int, a alike) string {
		text := count(n, noun)
		separator := ": "
		a.each(func(state string, names []string) {
			text += fmt.Sprintf("%s%d %s", separator, len(names), state)
			separator = ", "
		})
		return text
	}
	return counted("identity", len(page.Identities), identities) + "; " + counted("device", len(page.Devices), devices)
}

// showLinks shows the links of polled devices, and what of their answers was not one.
func showLinks(w io.Writer, links []control.LinkStatus, now time.Time) {
	if len(links) == 0 {
		return
	}
	t := newTable(w, "link", "address", "state", "for", "busy", "requests", "timeouts", "late", "noise", "broken", "error")
	for _, l := range links {
		state, busy := "offline", "-"
		if l.Up {
			state = "connected"
		}
		if l.Load != nil {
			busy = fmt.Sprintf("%.0f %%", 100**l.Load)
		}
		t.AppendRow(table.Row{l.Link, l.Address, state, since(l.Since, now), busy, l.Requests, l.Timeouts, l.Stale, l.Noise, l.Violations, l.Error})
	}
	t.Render()
	fmt.Fprintln(w)
}

// since is a duration as people say it, to two digits; "-" for a time that never was.
func since(t, now time.Time) string {
	if t.IsZero() {
		return "-"
	}
	d := max(0, now.Sub(t))
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%.0fs", d.Seconds())
	case d < time.Hour:
		return fmt.Sprintf("%dm%02ds", int(d.Minutes()), int(d.Seconds())%60)
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%dd%02dh", int(d.Hours())/24, int(d.Hours())%24)
}
