package hubsim

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

const (
	maxQuery      = 8 << 10 // bytes of a query
	maxQueryDepth = 64      // of parentheses and NOTs inside one another
)

// parseQuery reads a query about twins:
//
//	SELECT * | field [AS name], ...  FROM devices | devices.modules  [WHERE condition]
//
// A condition joins comparisons with AND, OR, NOT and parentheses. A comparison is two operands around one
// of = != <> < <= > >=, a field IN or NIN [literal, ...], is_defined(field), or a field that is true or
// false. Keywords come in any letter case; fields do not. Its error says where the query is wrong.
func parseQuery(text string) (query, error) {
	if len(text) > maxQuery {
		return query{}, fmt.Errorf("the query has %d bytes, the limit is %d", len(text), maxQuery)
	}
	p := &queryParser{text: text}
	p.advance()
	q, err := p.query()
	if p.bad != nil { // the text itself is wrong, and what was made of it too
		err = p.bad
	}
	return q, err
}

// token kinds of a query.
const (
	endToken = iota
	wordToken
	numberToken
	stringToken
	symbolToken
)

// queryToken is a piece of a query.
type queryToken struct {
	kind int
	text string // of a string without its quotes
	at   int    // offset, bytes
}

// queryParser reads one token ahead.
type queryParser struct {
	text string
	next int // where the token behind tok begins
	tok  queryToken
	bad  error // a token that is none
	deep int
}

// fail says that something else should stand where the parser is.
func (p *queryParser) fail(wanted string) error {
	found := strconv.Quote(p.tok.text)
	if p.tok.kind == endToken {
		found = "the end"
	}
	return fmt.Errorf("the query at character %d: %s is wanted, not %s", p.tok.at+1, wanted, clip(found))
}

// advance reads the next token.
func (p *queryParser) advance() {
	for p.next < len(p.text) && strings.ContainsRune(" \t\r\n", rune(p.text[p.next])) {
		p.next++
	}
	p.tok = queryToken{at: p.next}
	if p.next == len(p.text) {
		return
	}
	rest := p.text[p.next:]
	n := 1
	switch c := rest[0]; {
	case isWord(c, false):
		p.tok.kind, n = wordToken, span(rest, func(c byte) bool { return isWord(c, true) })
	case isDigit(c), c == '-', c == '+':
		p.tok.kind, n = numberToken, 1+span(rest[1:], func(c byte) bool { return isDigit(c) || strings.IndexByte("+-.eE", c) >= 0 })
	case c == '\'', c == '"':
		p.quoted(rest)
		return
	default:
		p.tok.kind = symbolToken
		if len(rest) > 1 && slices.Contains([]string{"!=", "<>", "<=", ">=", "[["}, rest[:2]) {
			n = 2
		}
	}
	p.tok.text, p.next = rest[:n], p.next+n
}

// quoted reads a string; a backslash makes the next character an ordinary one.
func (p *queryParser) quoted(rest string) {
	p.tok.kind = stringToken
	var b strings.Builder
	for i := 1; i < len(rest); i++ {
		switch c := rest[i]; {
		case c == rest[0]:
			p.tok.text, p.next = b.String(), p.next+i+1
			return
		case c == '\\' && i+1 < len(rest):
			i++
			b.WriteByte(rest[i])
		default:
			b.WriteByte(c)
		}
	}
	p.bad = fmt.Errorf("the query at character %d: the string has no end", p.tok.at+1)
	p.tok, p.next = queryToken{at: len(p.text)}, len(p.text)
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// isWord tells whether a word may have c, inside or at its beginning.
func isWord(c byte, inside bool) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || c == '_' || c == '$' || c >= 0x80 || inside && (isDigit(c) || c == '-')
}

// span is how many bytes at the beginning of text fit.
func span(text string, fits func(byte) bool) int {
	n := 0
	for n < len(text) && fits(text[n]) {
		n++
	}
	return n
}

// takes reads a keyword or symbol if it is there.
func (p *queryParser) takes(text string) bool {
	if p.tok.kind != wordToken && p.tok.kind != symbolToken || !strings.EqualFold(p.tok.text, text) {
		return false
	}
	p.advance()
	return true
}

// query is the whole text.
func (p *queryParser) query() (q query, err error) {
	if !p.takes("SELECT") {
		return q, p.fail("SELECT")
	}
	if !p.takes("*") {
		if q.fields, err = p.projections(); err != nil {
			return q, err
		}
	}
	if !p.takes("FROM") {
		return q, p.fail("FROM")
	}
	at := p.tok.at
	switch from, err := p.path(); {
	case err != nil:
		return q, err
	case slices.Equal(from, path{"devices"}):
	case slices.Equal(from, path{"devices", "modules"}):
		q.modules = true
	default:
		return q, fmt.Errorf("the query at character %d: %s cannot be asked for, only devices and devices.modules", at+1, clip(strings.Join(from, ".")))
	}
	if p.takes("WHERE") {
		if q.where, err = p.or(); err != nil {
			return q, err
		}
	}
	if p.tok.kind != endToken {
		return q, p.fail("WHERE, AND, OR or the end")
	}
	return q, nil
}

// projections is the list of fields behind SELECT.
func (p *queryParser) projections() (all []projection, err error) {
	for {
		one := projection{}
		if one.path, err = p.field(); err != nil {
			return nil, err
		}
		one.name = one.path[len(one.path)-1]
		if p.takes("AS") {
			if p.tok.kind != wordToken {
				return nil, p.fail("a name")
			}
			one.name = p.tok.text
			p.advance()
		}
		if all = append(all, one); !p.takes(",") {
			return all, nil
		}
	}
}

// field is the path of something that twins have.
func (p *queryParser) field() (path, error) {
	at := p.tok.at
	f, err := p.path()
	if err == nil && !knownField(f) {
		err = fmt.Errorf("the query at character %d: twins have no field %s", at+1, clip(strings.Join(f, ".")))
	}
	return f, err
}

// path is words joined by dots; behind the first they may stand as [[name]] or ['name'] too.
func (p *queryParser) path() (path, error) {
	if p.tok.kind != wordToken {
		return nil, p.fail("a field")
	}
	f := path{p.tok.text}
	p.advance()
	for {
		switch {
		case p.takes("."):
			if p.tok.text == "[[" && p.tok.kind == symbolToken {
				if err := p.escaped(&f); err != nil {
					return nil, err
				}
				continue
			}
			if p.tok.kind != wordToken {
				return nil, p.fail("a name")
			}
			f = append(f, p.tok.text)
			p.advance()
		case p.takes("["):
			if p.tok.kind != stringToken {
				return nil, p.fail("a name in quotes")
			}
			f = append(f, p.tok.text)
			if p.advance(); !p.takes("]") {
				return nil, p.fail("]")
			}
		default:
			return f, nil
		}
	}
}

// escaped reads [[name]].
func (p *queryParser) escaped(f *path) error {
	name, _, found := strings.Cut(p.text[p.next:], "]]")
	if !found {
		return p.fail("a name in [[ ]]")
	}
	*f = append(*f, name)
	p.next += len(name) + len("]]")
	p.advance()
	return nil
}

func (p *queryParser) or() (condition, error) {
	return p.joined("OR", p.and, func(all []condition) condition { return anyOf(all) })
}

func (p *queryParser) and() (condition, error) {
	return p.joined("AND", p.not, func(all []condition) condition { return allOf(all) })
}

// joined is one or more parts with a keyword between them.
func (p *queryParser) joined(keyword string, part func() (condition, error), join func([]condition) condition) (condition, error) {
	var all []condition
	for {
		one, err := part()
		if err != nil {
			return nil, err
		}
		if all = append(all, one); !p.takes(keyword) {
			break
		}
	}
	if len(all) == 1 {
		return all[0], nil
	}
	return join(all), nil
}

func (p *queryParser) not() (condition, error) {
	if p.deep++; p.deep > maxQueryDepth {
		return nil, fmt.Errorf("the query is nested deeper than %d levels", maxQueryDepth)
	}
	defer func() { p.deep-- }()
	if p.takes("NOT") {
		inner, err := p.not()
		return negation{inner}, err
	}
	if p.takes("(") {
		inner, err := p.or()
		if err == nil && !p.takes(")") {
			err = p.fail(")")
		}
		return inner, err
	}
	return p.comparison()
}

// comparison is what is no combination of others.
func (p *queryParser) comparison() (condition, error) {
	if p.tok.kind == wordToken && strings.EqualFold(p.tok.text, "is_defined") {
		return p.isDefined()
	}
	left, err := p.operand()
	if err != nil {
		return nil, err
	}
	for _, op := range []string{"=", "!=", "<>", "<=", ">=", "<", ">"} {
		if p.takes(op) {
			right, err := p.operand()
			return comparison{left, op, right}, err
		}
	}
	for _, op := range []string{"IN", "NIN"} {
		if p.takes(op) {
			all, err := p.list()
			if op == "NIN" {
				return negation{membership{left, all}}, err
			}
			return membership{left, all}, err
		}
	}
	return flag{left}, nil
}

func (p *queryParser) isDefined() (condition, error) {
	p.advance()
	if !p.takes("(") {
		return nil, p.fail("(")
	}
	f, err := p.field()
	if err == nil && !p.takes(")") {
		err = p.fail(")")
	}
	return defined(f), err
}

// list is the literals behind IN.
func (p *queryParser) list() (all []operand, err error) {
	if !p.takes("[") {
		return nil, p.fail("[")
	}
	for {
		one, isField, err := p.literal()
		if err != nil || isField {
			return nil, p.fail("a number, a string, true, false or null")
		}
		all = append(all, one)
		if !p.takes(",") {
			break
		}
	}
	if !p.takes("]") {
		return nil, p.fail("]")
	}
	return all, nil
}

// operand is a literal or a field.
func (p *queryParser) operand() (operand, error) {
	one, isField, err := p.literal()
	if err != nil || !isField {
		return one, err
	}
	f, err := p.field()
	return operand{field: f}, err
}

// literal is a number, a string, true, false or null; isField tells that it is something else.
func (p *queryParser) literal() (one operand, isField bool, err error) {
	switch p.tok.kind {
	case stringToken:
		one.value = p.tok.text
	case numberToken:
		n, err := strconv.ParseFloat(p.tok.text, 64)
		if err != nil {
			return one, false, p.fail("a number")
		}
		one.value = n
	default:
		word := strings.ToLower(p.tok.text)
		if p.tok.kind != wordToken || word != "true" && word != "false" && word != "null" {
			return one, true, nil
		}
		if word != "null" {
			one.value = word == "true"
		}
	}
	p.advance()
	return one, false, nil
}
