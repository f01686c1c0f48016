package mapping

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// Finding is one mistake or doubt about a mapping file (MAP-40).
type Finding struct {
	File string
	// Line and Column count from 1, columns in characters: where the key or value to blame begins.
	Line, Column int
	// Code is stable and documented: "E003" is an error, "W210" a warning.
	Code string
	// Message says what is wrong and what to write instead, on one line and without any secret.
	Message string
	// Source is the line of the file, secrets replaced by asterisks; "" if it is too long to show.
	Source string
}

// Warning tells whether the mapping may be used nevertheless.
func (f Finding) Warning() bool { return strings.HasPrefix(f.Code, "W") }

// String is "file:line:col: CODE message", the line of the file and a caret under the column.
func (f Finding) String() string {
	head := fmt.Sprintf("%s:%d:%d: %s %s", f.File, f.Line, f.Column, f.Code, f.Message)
	if f.Source == "" {
		return head
	}
	before := []rune(f.Source)
	before = before[:min(len(before), max(0, f.Column-1))]
	for i, r := range before {
		if r != '\t' { // a tab stays one, so that the caret stays below
			before[i] = ' '
		}
	}
	return head + "\n" + f.Source + "\n" + string(before) + "^"
}

// Findings are what is wrong with one file: errors before warnings, each by position.
type Findings []Finding

// Errors is how many of them forbid to use the mapping.
func (fs Findings) Errors() int { return len(fs) - fs.Warnings() }

// Warnings is how many of them are only doubts.
func (fs Findings) Warnings() int {
	n := 0
	for _, f := range fs {
		if f.Warning() {
			n++
		}
	}
	return n
}

// sort puts errors before warnings and both in the order of the file.
func (fs Findings) sort() {
	slices.SortStableFunc(fs, func(a, b Finding) int {
		if a.Warning() != b.Warning() {
			return strings.Compare(a.Code[:1], b.Code[:1])
		}
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column), strings.Compare(a.Code, b.Code))
	})
}

// position is a place in the file; both count from 1.
type position struct{ line, column int }

func (p position) before(q position) bool {
	return p.line < q.line || p.line == q.line && p.column < q.column
}

// widestSource is the longest line that a finding shows, in characters.
const widestSource = 500

// reader collects the findings of one file.
type reader struct {
	file   string
	lines  []string
	hidden []span // what no message may show, in the order of the file
	*report
}

// report is what was found in a mapping and in the profiles that it uses.
type report struct {
	findings Findings
	seen     map[mark]bool
	errors   int // reported errors, repeated ones included
}

// mark is what makes a finding unique: a point of a profile is looked at once for each device.
type mark struct {
	file string
	position
	code string
}

func newReader(name string, data []byte) *reader {
	text := strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(string(data))
	return &reader{file: name, lines: strings.Split(text, "\n"), report: &report{seen: map[mark]bool{}}}
}

// found adds a finding, unless the same was found there before.
func (r *reader) found(at position, code, format string, args ...any) {
	if code[0] == 'E' {
		r.errors++
	}
	if m := (mark{r.file, at, code}); !r.seen[m] {
		r.seen[m] = true
		r.findings = append(r.findings, Finding{
			File: r.file, Line: at.line, Column: at.column, Code: code,
			Message: hideKeys(fmt.Sprintf(format, args...)), Source: r.source(at.line),
		})
	}
}

// finding is one about the value, still without code and message.
func (n node) finding() Finding {
	return Finding{File: n.file, Line: n.at.line, Column: n.at.column, Source: n.source(n.at.line)}
}

// source is a line as it may be shown.
func (r *reader) source(line int) string {
	if line < 1 || line > len(r.lines) || utf8.RuneCountInString(r.lines[line-1]) > widestSource {
		return ""
	}
	return hideKeys(hideSpans(r.lines[line-1], line, r.hidden))
}

// quote shows a text of the file in a message, shortened.
func quote(text string) string {
	const most = 40
	text = hideKeys(text) // before half of a key no longer looks like one
	if runes := []rune(text); len(runes) > most {
		text = string(runes[:most]) + "..."
	}
	return fmt.Sprintf("%q", text)
}
