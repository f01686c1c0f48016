package mapping

import (
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	yaml "go.yaml.in/yaml/v4"

	"iothub-gateway/identity"
)

// span is a part of the file, from its first character to the one behind its last.
type span struct{ from, to position }

// endOfFile is behind every position.
const endOfFile = 1 << 30

var (
	// keyText is a base64 key of at least 16 bytes (SAS-5), wherever it stands.
	keyText = regexp.MustCompile(`[A-Za-z0-9+/]{20,}={1,2}`)
	// accessText is the secret part of a connection string or token of the hub.
	accessText = regexp.MustCompile(`SharedAccess[A-Za-z]*[= ]\S+`)
	// userText is the user and password in a URL.
	userText = regexp.MustCompile(`://[^\s/@]*@`)
	// keyField is the name of a secret and, if one follows, the start of a reference, in a line that
	// YAML could not read.
	keyField = regexp.MustCompile(`(?i)(?:key|secret|password|token|signature)["']?\s*[:=]\s*(["']?(?:file|env|credential):)?`)
)

// hideKeys replaces what looks like a key by asterisks, one for each character.
func hideKeys(text string) string {
	text = keyText.ReplaceAllStringFunc(text, stars)
	text = userText.ReplaceAllStringFunc(text, func(found string) string { return "://" + stars(found[3:len(found)-1]) + "@" })
	return accessText.ReplaceAllStringFunc(text, func(found string) string {
		name := strings.IndexAny(found, "= ") + 1
		return found[:name] + stars(found[name:])
	})
}

// hideUnparsed lists what may be secret in a text that is not YAML, line by line: what stands behind
// the name of a secret, and below it if it is indented further, unless it is a reference.
func hideUnparsed(lines []string) []span {
	var spans []span
	for i := 0; i < len(lines); i++ {
		start := unreferenced(lines[i])
		if start < 0 {
			continue
		}
		hidden := span{from: position{i + 1, 1 + utf8.RuneCountInString(lines[i][:start])}}
		for depth := indent(lines[i]); i+1 < len(lines) && (strings.TrimSpace(lines[i+1]) == "" || indent(lines[i+1]) > depth); {
			i++
		}
		hidden.to = position{i + 2, 1}
		spans = append(spans, hidden)
	}
	return spans
}

// unreferenced is where in a line the first secret begins that is no reference; -1 if there is none.
// Of a line that is too long to be shown only its end counts, for what stands below it.
func unreferenced(line string) int {
	skipped := max(0, len(line)-utf8.UTFMax*widestSource)
	for _, found := range keyField.FindAllStringSubmatchIndex(line[skipped:], -1) {
		if found[2] < 0 {
			return skipped + found[1]
		}
	}
	return -1
}

func indent(line string) int { return len(line) - len(strings.TrimLeft(line, " \t")) }

// reference tells whether a secret field's text only says where the secret is.
func reference(text string) bool {
	_, err := identity.ParseRef(text)
	return err == nil
}

func stars(text string) string {
	return strings.Map(func(r rune) rune {
		if r == ' ' || r == '\t' {
			return r
		}
		return '*'
	}, text)
}

// hideSpans replaces what of the line lies in spans, which are in the order of the file.
func hideSpans(text string, line int, spans []span) string {
	start := position{line, 1}
	first, _ := slices.BinarySearchFunc(spans, start, func(s span, p position) int {
		if p.before(s.to) {
			return 1
		}
		return -1
	})
	for _, s := range spans[first:] {
		if s.from.line > line {
			break
		}
		runes := []rune(text)
		from, to := 0, len(runes)
		if s.from.line == line {
			from = min(s.from.column-1, len(runes))
		}
		if s.to.line == line {
			to = min(s.to.column-1, len(runes))
		}
		text = string(runes[:from]) + stars(string(runes[from:to])) + string(runes[to:])
	}
	return text
}

// hider finds the secrets of a tree before anything is reported.
type hider struct {
	spans   []span
	lines   []string
	open    bool // the last span ends where the next node begins
	targets map[*yaml.Node]bool
}

// secretsOf lists the parts of the file that no message may show, in the order of the file: what
// stands in secret fields, whatever else is wrong with it, unless it is a reference.
func secretsOf(root *yaml.Node, lines []string) []span {
	h := &hider{lines: lines, targets: map[*yaml.Node]bool{}}
	h.walk(root, false) // finds what the aliases in secret fields stand for
	h.spans, h.open = nil, false
	h.walk(root, false)
	return h.spans
}

func (h *hider) walk(n *yaml.Node, secret bool) {
	at := position{n.Line, n.Column}
	if h.open {
		h.spans[len(h.spans)-1].to = at
		h.open = false
	}
	secret = secret || h.targets[n]
	switch n.Kind {
	case yaml.AliasNode:
		if secret && n.Alias != nil {
			h.targets[n.Alias] = true
		}
	case yaml.ScalarNode:
		if secret && n.Value != "" && !reference(n.Value) {
			h.hide(n, at)
		}
	case yaml.MappingNode:
		h.mapping(n, secret)
	default:
		for _, c := range n.Content {
			h.walk(c, secret)
		}
	}
}

// hide opens a span, or makes a whole one of a scalar that stands on one line as it is, quoted or not.
func (h *hider) hide(n *yaml.Node, at position) {
	s := span{at, position{line: endOfFile}}
	if at.line <= len(h.lines) {
		line := []rune(h.lines[at.line-1])
		length := utf8.RuneCountInString(n.Value)
		for _, quotes := range []int{0, 1} {
			start := at.column - 1 + quotes
			if start+length <= len(line) && string(line[start:start+length]) == n.Value {
				s.to = position{at.line, at.column + length + 2*quotes}
			}
		}
	}
	h.open = s.to.line == endOfFile
	h.spans = append(h.spans, s)
}

func (h *hider) mapping(n *yaml.Node, secret bool) {
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		h.walk(key, secret)
		scalar := value.Kind == yaml.ScalarNode || value.Kind == yaml.AliasNode
		h.walk(value, secret || secretField(key.Value) || scalar && soundsSecret(key.Value))
	}
}

// secretField tells whether all that is below the key is secret: the fields that take references,
// and their misspellings.
func secretField(key string) bool {
	key = strings.ToLower(key)
	return key == "key" || slices.ContainsFunc([]string{"sas_key", "sas_token", "group_key", "private_key", "password"},
		func(field string) bool { return distance(key, field) <= 2 })
}

// soundsSecret tells whether a person could have put a secret there, whether or not the key exists.
func soundsSecret(key string) bool {
	key = strings.ToLower(key)
	return slices.ContainsFunc([]string{"key", "secret", "passw", "token", "connection_string"},
		func(word string) bool { return strings.Contains(key, word) })
}
