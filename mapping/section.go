package mapping

import (
	"fmt"
	"slices"
	"strings"

	yaml "go.yaml.in/yaml/v4"
)

// node is a value of the file: where it stands, where its key stands, and what the key is called.
type node struct {
	*reader
	yaml  *yaml.Node // never an alias; nil only in the zero node
	at    position   // of the value; an alias where it is used
	key   position
	label string
}

// complain reports about the value.
func (n node) complain(code, format string, args ...any) { n.found(n.at, code, format, args...) }

// refuse reports about the key.
func (n node) refuse(code, format string, args ...any) { n.found(n.key, code, format, args...) }

// lacks reports about something that the value should have: at its own place if it stands in one
// line with its key, else at the key.
func (n node) lacks(code, format string, args ...any) {
	if n.at.line == n.key.line {
		n.complain(code, format, args...)
		return
	}
	n.refuse(code, format, args...)
}

// field is one entry of a map.
type field struct {
	name string
	node
	merged bool // comes from a merge key
}

// fields lists the entries of a map in the order of the file; those of merge keys follow, unless they
// are given. A key that is given twice is reported as code; the first one counts.
func (n node) fields(code string) []field {
	if n.yaml.Kind != yaml.MappingNode {
		n.complain("E007", "%s must be a map of keys and values, such as %s", n.label, example(n.label))
		return nil
	}
	return n.collect(code, 0)
}

func (n node) collect(code string, depth int) []field {
	var own, merged []field
	first := map[string]position{}
	for i := 0; i+1 < len(n.yaml.Content); i += 2 {
		key := n.wrap(n.yaml.Content[i])
		if key.yaml.Kind != yaml.ScalarNode {
			key.complain("E007", "a key of %s must be one word", n.label)
			continue
		}
		f := field{name: key.yaml.Value, node: n.wrap(n.yaml.Content[i+1])}
		f.key, f.label = key.at, f.name
		if key.yaml.Tag == "!!merge" {
			merged = append(merged, f.merge(depth+1)...)
			continue
		}
		if at, twice := first[f.name]; twice {
			f.refuse(code, "%s is given twice; first on line %d, keep one", quote(f.name), at.line)
			continue
		}
		first[f.name] = f.key
		own = append(own, f)
	}
	for _, f := range merged {
		if _, given := first[f.name]; !given {
			first[f.name] = f.key
			f.merged = true
			own = append(own, f)
		}
	}
	return own
}

// wrap makes a node of a YAML node, following aliases; load.go has refused circles.
func (n node) wrap(y *yaml.Node) node {
	w := node{reader: n.reader, yaml: y, at: position{y.Line, y.Column}, label: n.label}
	for w.yaml.Kind == yaml.AliasNode {
		w.yaml = w.yaml.Alias
	}
	return w
}

// merge lists the entries that a merge key brings.
func (f field) merge(depth int) []field {
	if depth > maxMerge {
		f.complain("E013", "merge keys inside merge keys are %d deep; use a profile instead", depth)
		return nil
	}
	parts := []node{f.node}
	if f.yaml.Kind == yaml.SequenceNode {
		parts = parts[:0]
		for _, item := range f.yaml.Content {
			parts = append(parts, f.wrap(item))
		}
	}
	var list []field
	for _, part := range parts {
		if part.yaml.Kind != yaml.MappingNode {
			part.complain("E007", "<< takes a map that is marked with an anchor, such as <<: *name")
			continue
		}
		list = append(list, part.collect("E002", depth)...)
	}
	return list
}

// section is a map with a fixed set of keys.
type section struct {
	node
	fields   []field
	misspelt map[string]bool // known keys that an unknown one was taken for
}

// section reads a map whose keys are those of p; any other key is an error.
func (n node) section(p place) section {
	code := "E002"
	if p == atTop {
		code = "E004"
	}
	s := section{node: n, misspelt: map[string]bool{}}
	for _, f := range n.fields(code) {
		if slices.Contains(p.keys(), f.name) {
			s.fields = append(s.fields, f)
			continue
		}
		meant, remedy := f.remedy(p)
		s.misspelt[meant] = true
		f.refuse("E003", "unknown key %s in %s%s", quote(f.name), p, remedy)
	}
	return s
}

// remedy says what to write instead of an unknown key: which key was meant, if that can be guessed.
func (f field) remedy(p place) (meant, text string) {
	if name, _, glued := strings.Cut(f.name, ":"); glued && slices.Contains(p.keys(), name) {
		return name, "; put a space behind the colon"
	}
	if meant = similar(f.name, p.keys()); meant != "" {
		return meant, didYouMean(f.name, p.keys())
	}
	if meant = synonym(f.name); slices.Contains(p.keys(), meant) {
		return meant, fmt.Sprintf(" (did you mean %s?)", meant)
	}
	if strings.Trim(f.name, "0123456789") == "" {
		return "", "; a decimal number is written with a point: 0.1"
	}
	return "", "; known here: " + strings.Join(p.keys(), ", ")
}

// drop forgets keys that have been refused, so that they are not read as well.
func (s *section) drop(refused func(field) bool) {
	s.fields = slices.DeleteFunc(slices.Clone(s.fields), refused)
}

// get is the value of a key.
func (s section) get(name string) (node, bool) {
	for _, f := range s.fields {
		if f.name == name {
			return f.node, true
		}
	}
	return node{}, false
}

// has tells whether a key is given, with whatever value.
func (s section) has(name string) bool {
	_, ok := s.get(name)
	return ok
}

// lacks reports that a key is missing. A value that is no map at all, or a key that was only misspelt,
// has been reported.
func (s section) lacks(key, code, format string, args ...any) {
	if s.yaml.Kind == yaml.MappingNode && !s.misspelt[key] {
		s.node.lacks(code, format, args...)
	}
}
