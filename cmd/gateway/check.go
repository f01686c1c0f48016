package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/jedib0t/go-pretty/v6/text"
	"github.com/spf13/cobra"

	"iothub-gateway/identity"
	"iothub-gateway/internal/control"
	"iothub-gateway/mapping"
)

func checkCommand(io streams) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "check [mapping.yaml]",
		Short: "Find every mistake in a mapping, without touching a device",
		Long: `check reads the mapping and shows every mistake at once, each with its place, what is wrong and what
to write instead. Nothing is started and no device or hub is contacted.

A key file that does not exist is a warning here, because a mapping is often written on another
machine; 'gateway run' refuses to start without it.

Exit code: 0 no errors (warnings are allowed), 1 errors, 2 wrong command line.`,
		Example: "  gateway check\n  gateway check plant7.yaml --json",
		Args:    words(cobra.MaximumNArgs(1)),
		RunE: func(_ *cobra.Command, args []string) error {
			path := mappingArgument(args)
			plant, findings, err := loadMapping(path)
			if err != nil {
				return err
			}
			if plant != nil {
				findings = append(findings, mapping.CheckSecrets(plant, secretSource(path))...)
				if err := secureLinks(plant, secretSource(path)); err != nil {
					fmt.Fprintf(io.err, "%s: %v\n", path, err)
				}
			}
			if asJSON {
				return reportJSON(io.out, findings)
			}
			return reportFindings(io.out, path, plant, findings)
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print the findings as a JSON array")
	return c
}

// mappingArgument is the mapping's path on the command line, or the default.
func mappingArgument(args []string) string {
	if len(args) > 0 {
		return args[0]
	}
	return defaultMapping
}

// loadMapping is mapping.Load with a remedy for who has no mapping yet.
func loadMapping(path string) (*mapping.Plant, mapping.Findings, error) {
	plant, findings, err := mapping.Load(path)
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("no mapping %s; name one, or try 'gateway demo', whose example shows how one looks", path)
	}
	return plant, findings, err
}

// secretSource looks secrets up beside the mapping and in systemd's credentials directory.
func secretSource(mappingPath string) identity.Source {
	return identity.Source{Dir: filepath.Dir(mappingPath), Credentials: os.Getenv("CREDENTIALS_DIRECTORY")}
}

// reportFindings prints findings for a person and fails if there are errors among them.
func reportFindings(w io.Writer, path string, plant *mapping.Plant, findings mapping.Findings) error {
	colour := terminal(w)
	for _, f := range findings {
		line := f.String()
		if colour && f.Warning() {
			line = text.FgYellow.Sprint(line)
		} else if colour {
			line = text.FgRed.Sprint(line)
		}
		fmt.Fprintln(w, line)
	}
	wrong, doubtful := findings.Errors(), findings.Warnings()
	if wrong > 0 {
		fmt.Fprintf(w, "%s: %s, %s; nothing was started\n", path, count(wrong, "error"), count(doubtful, "warning"))
		return &failure{code: exitFailed}
	}
	fmt.Fprintf(w, "%s: good: %s, %s, %s; %s\n", path, identitiesBy(plant),
		count(len(plant.Devices), "device"), count(len(plant.Points), "point"), count(doubtful, "warning"))
	return nil
}

// identitiesBy counts identities and says how they prove themselves: "3 identities (2 by device key, 1 by
// certificate)".
func identitiesBy(plant *mapping.Plant) string {
	by := map[mapping.CredentialKind]int{}
	for _, id := range plant.Identities {
		by[id.Kind]++
	}
	var parts []string
	for _, kind := range slices.Sorted(maps.Keys(by)) {
		parts = append(parts, fmt.Sprintf("%d by %s", by[kind], kind))
	}
	text := count(len(plant.Identities), "identity")
	if len(parts) > 0 {
		text += " (" + strings.Join(parts, ", ") + ")"
	}
	return text
}

// findingRows are findings for programs.
func findingRows(findings mapping.Findings) []control.Finding {
	rows := []control.Finding{}
	for _, f := range findings {
		severity := "error"
		if f.Warning() {
			severity = "warning"
		}
		rows = append(rows, control.Finding{File: f.File, Line: f.Line, Column: f.Column, Code: f.Code, Severity: severity, Message: f.Message})
	}
	return rows
}

func reportJSON(w io.Writer, findings mapping.Findings) error {
	if err := printJSON(w, findingRows(findings)); err != nil {
		return err
	}
	if findings.Errors() > 0 {
		return &failure{code: exitFailed}
	}
	return nil
}

// count is "1 error", "2 errors", "3 identities".
func count(n int, noun string) string {
	if n != 1 {
		if noun == "identity" {
			noun = "identitie"
		}
		noun += "s"
	}
	return fmt.Sprintf("%d %s", n, noun)
}
