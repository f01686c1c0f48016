package mapping

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode/utf8"

	yaml "go.yaml.in/yaml/v4"
)

// Limits of one file (MAP-21, MAP-23).
const (
	maxFile    = 10 << 20 // bytes
	maxPoints  = 100_000  // of all devices, those of their profiles included
	maxAliased = 100_000  // YAML nodes that aliases stand for
	maxMerge   = 16       // merge keys inside merge keys
)

// Load reads and checks the mapping file at path. The error is about reading the file only; what is
// wrong inside are findings. The Plant is nil if any of them is an error.
func Load(path string) (*Plant, Findings, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, nil, fmt.Errorf("mapping: %w", err)
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, maxFile+1)) // one more tells Parse that it is too large
	if err != nil {
		return nil, nil, fmt.Errorf("mapping: %w", err)
	}
	plant, findings := Parse(path, data)
	return plant, findings, nil
}

// Parse checks a mapping; name is what findings call the file. It touches no file and no network.
// The Plant is nil if any finding is an error.
func Parse(name string, data []byte) (*Plant, Findings) { return parse(name, data, maxPoints) }

// parse is Parse for a plant of at most so many points.
func parse(name string, data []byte, most int) (*Plant, Findings) {
	if len(data) > maxFile {
		r := newReader(name, nil)
		r.found(position{1, 1}, "E013", "the file is larger than 10 MiB; split the plant between two gateways")
		return nil, r.findings
	}
	data = bytes.TrimPrefix(data, []byte("\ufeff"))
	r := newReader(name, data)
	var plant *Plant
	if root := r.tree(data); root != nil {
		plant = r.plant(root, most)
	}
	r.findings.sort()
	if r.errors > 0 {
		return nil, r.findings
	}
	return plant, r.findings
}

// tree parses data into the nodes of its one document, or reports why that is impossible.
func (r *reader) tree(data []byte) *yaml.Node {
	if at, problem := r.plainText(); problem != "" {
		r.hidden = hideUnparsed(r.lines)
		r.found(at, "E006", "%s", problem)
		return nil
	}
	root, extra, err := compose(data)
	switch {
	case err != nil:
		r.hidden = hideUnparsed(r.lines)
		r.syntax(err)
		return nil
	case extra != nil:
		r.hidden = hideUnparsed(r.lines)
		r.found(position{extra.Line, extra.Column}, "E006", "a second YAML document starts here; one file holds one mapping, drop the line ---")
		return nil
	case root == nil || len(root.Content) == 0:
		r.found(position{1, 1}, "E008", "the file is empty; start with version: 1, hub: and devices:")
		return nil
	}
	r.hidden = secretsOf(root, r.lines)
	if !r.aliases(root) {
		return nil
	}
	return root.Content[0]
}

// plainText finds what is not text, or a line end to YAML and not to editors; "" if there is none.
func (r *reader) plainText() (at position, problem string) {
	for i, line := range r.lines {
		column := 0
		for j, c := range line {
			column++
			at = position{i + 1, column}
			if c == utf8.RuneError && !strings.HasPrefix(line[j:], "\ufffd") {
				return at, "this is not UTF-8 text; save the file as UTF-8"
			}
			if c < ' ' && c != '\t' || c >= 0x7f && c < 0xa0 || c == '\u2028' || c == '\u2029' || c == '\ufeff' || c == '\ufffe' || c == '\uffff' {
				return at, fmt.Sprintf("the character U+%04X cannot stand in a mapping; delete it", c)
			}
		}
	}
	return at, ""
}

// compose runs the YAML parser. It turns a panic of the parser into an error: the file is input.
func compose(data []byte) (root, extra *yaml.Node, err error) {
	defer func() {
		if problem := recover(); problem != nil {
			err = errors.New("the YAML parser gave up")
		}
	}()
	loader, err := yaml.NewLoader(bytes.NewReader(data))
	if err != nil {
		return nil, nil, err
	}
	var nodes [2]yaml.Node
	for i := range nodes {
		switch err := loader.Load(&nodes[i]); {
		case errors.Is(err, io.EOF) && i == 0:
			return nil, nil, nil
		case errors.Is(err, io.EOF):
			return &nodes[0], nil, nil
		case err != nil:
			return nil, nil, err
		}
	}
	return &nodes[0], &nodes[1], nil
}

// syntax reports why the file is not YAML: one finding, at the place where the parser stopped.
func (r *reader) syntax(err error) {
	at, message := position{1, 1}, "it is not YAML"
	var many *yaml.LoadErrors
	var one *yaml.LoadError
	switch {
	case errors.As(err, &many) && len(many.Errors) > 0:
		one = many.Errors[0]
	case !errors.As(err, &one):
		one = &yaml.LoadError{Message: err.Error()}
	}
	if one.Mark.Line > 0 {
		at = position{one.Mark.Line, one.Mark.Column}
	}
	if at.line > len(r.lines) { // the parser stopped behind the last line
		at = position{len(r.lines), 1 + utf8.RuneCountInString(r.lines[len(r.lines)-1])}
	}
	if strings.Contains(one.Message, "anchor") { // its name may be anything
		message = "this alias or anchor has no proper name, or nothing it could stand for"
	} else if one.Message != "" {
		message = "this is not YAML: " + one.Message
	}
	runes := []rune(r.lines[at.line-1])
	here := runes[min(at.column-1, len(runes)):]
	before := string(runes[:len(runes)-len(here)])
	switch {
	case len(here) > 0 && here[0] == '\t' && strings.TrimSpace(before) == "":
		r.found(at, "E012", "tab used for indentation; use spaces")
	case len(here) > 0 && here[0] == '%' && strings.TrimSpace(before) != "":
		r.found(at, "E011", `a text that begins with %% needs quotes: "%%MW100", "%%RH"`)
	case len(here) > 0 && strings.ContainsRune("@`*&!|>", here[0]):
		r.found(at, "E006", "%s; a text that begins with %c needs quotes", message, here[0])
	case one.ContextMark.Line > 0 && one.ContextMark.Line < at.line:
		r.found(at, "E006", "%s (look from line %d on: indentation, a missing quote, bracket or colon)", message, one.ContextMark.Line)
	default:
		r.found(at, "E006", "%s; look for indentation, a missing quote, bracket or colon", message)
	}
}

// aliases refuses aliases that stand for too much, or for themselves (MAP-21).
func (r *reader) aliases(root *yaml.Node) bool {
	sizes := map[*yaml.Node]int{}
	const looking = -1
	var size func(n *yaml.Node) int
	total := 0
	size = func(n *yaml.Node) int {
		if s, known := sizes[n]; known {
			return s
		}
		sizes[n] = looking
		sum := 1
		for _, c := range n.Content {
			sum = min(sum+max(size(c), 1), maxAliased+1)
		}
		if n.Kind == yaml.AliasNode && n.Alias != nil {
			sum = size(n.Alias)
			total = min(total+max(sum, 1), maxAliased+1)
			at := position{n.Line, n.Column}
			switch {
			case r.errors > 0:
			case sum == looking:
				r.found(at, "E013", "this alias stands for a part that contains it; write the part out")
			case total > maxAliased:
				r.found(at, "E013", "the aliases stand for more than %d entries; use a profile instead", maxAliased)
			}
		}
		sizes[n] = sum
		return sum
	}
	size(root)
	return r.errors == 0
}
