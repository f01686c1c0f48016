package mapping

import (
	"math"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	yaml "go.yaml.in/yaml/v4"
)

var (
	decimalText  = regexp.MustCompile(`^[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,3})?$`)
	hexText      = regexp.MustCompile(`^0[xX][0-9a-fA-F]{1,16}$`)
	leadingZero  = regexp.MustCompile(`^[+-]?0[0-9]`)
	durationText = regexp.MustCompile(`^([0-9]{1,9})(ms|s|m|h|d)$`)
	sizeText     = regexp.MustCompile(`^([0-9]{1,9})(KiB|MiB|GiB)$`)
)

const longestNumber = 40 // characters

// text is the raw text of a scalar, as it stands in the file.
func (n node) text() (string, bool) {
	switch {
	case n.yaml.Kind != yaml.ScalarNode:
		remedy := ""
		if n.label == "range" {
			remedy = "; write 0..100"
		}
		n.complain("E007", "%s takes one value here, not a list or map%s", n.label, remedy)
	case n.yaml.Style&yaml.TaggedStyle != 0:
		n.complain("E007", "%s: YAML tags such as !!int have no meaning here; write the value alone", n.label)
	case n.yaml.Value == "":
		n.complain("E007", "%s has no value; write one or drop the key", n.label)
	case n.yaml.Tag == "!!null" && n.plain():
		n.complain("E007", "%s: %s means \"no value\" in YAML; write a value or drop the key", n.label, n.yaml.Value)
	default:
		return n.yaml.Value, true
	}
	return "", false
}

// plain tells whether the scalar stands without quotes.
func (n node) plain() bool {
	return n.yaml.Style&(yaml.SingleQuotedStyle|yaml.DoubleQuotedStyle|yaml.LiteralStyle|yaml.FoldedStyle) == 0
}

// zeroes refuses a number with a leading zero, which some YAML tools take for octal (MAP-21).
func (n node) zeroes(text string) bool {
	if !leadingZero.MatchString(text) {
		return false
	}
	n.complain("E010", "%s: %s has a leading zero and means another number to some YAML tools; write %s",
		n.label, quote(text), withoutZeroes(text))
	return true
}

func withoutZeroes(text string) string {
	digits := strings.TrimLeft(text, "+-")
	sign := text[:len(text)-len(digits)]
	digits = strings.TrimLeft(digits, "0")
	if digits == "" || digits[0] < '0' || digits[0] > '9' {
		digits = "0" + digits
	}
	return sign + digits
}

// number is a finite decimal number, such as -0.5 or 1e3.
func (n node) number() (float64, bool) {
	text, ok := n.text()
	if !ok || n.zeroes(text) {
		return 0, false
	}
	f, ok := parseNumber(text)
	if !ok {
		n.complain("E009", "%s: %s is not a number; write one such as 5 or 0.1", n.label, quote(text))
	}
	return f, ok
}

func parseNumber(text string) (float64, bool) {
	if len(text) > longestNumber || !decimalText.MatchString(text) {
		return 0, false
	}
	f, err := strconv.ParseFloat(text, 64)
	return f, err == nil && !math.IsInf(f, 0)
}

// whole is an integer, decimal or hexadecimal, that lies in low..high; code is reported if not.
func (n node) whole(low, high int, code string) (int, bool) {
	text, ok := n.text()
	if !ok || n.zeroes(text) {
		return 0, false
	}
	i, ok := parseWhole(text)
	if !ok || i < int64(low) || i > int64(high) {
		n.complain(code, "%s: %s is not possible; write a whole number from %d to %d", n.label, quote(text), low, high)
		return 0, false
	}
	return int(i), true
}

// parseWhole reads an integer without leading zeros: -12 or 0x1F.
func parseWhole(text string) (int64, bool) {
	if hexText.MatchString(text) {
		u, err := strconv.ParseUint(text[2:], 16, 64)
		return int64(u), err == nil && u <= math.MaxInt64
	}
	i, err := strconv.ParseInt(text, 10, 64)
	return i, err == nil && !leadingZero.MatchString(text)
}

// yes is true or false.
func (n node) yes() (answer, ok bool) {
	text, ok := n.text()
	if !ok {
		return false, false
	}
	if text != "true" && text != "false" {
		n.complain("E009", "%s: %s is no answer; write true or false", n.label, quote(text))
		return false, false
	}
	return text == "true", true
}

// word is one of a few words.
func (n node) word(words ...string) (string, bool) {
	text, ok := n.text()
	if ok && !slices.Contains(words, text) {
		n.complain("E009", "%s: %s is not known; write %s%s", n.label, quote(text), orList(words), didYouMean(text, words))
		return "", false
	}
	return text, ok
}

// orList is "a, b or c".
func orList(words []string) string {
	last := len(words) - 1
	if last < 1 {
		return strings.Join(words, "")
	}
	return strings.Join(words[:last], ", ") + " or " + words[last]
}

// duration is a time from shortest to longest, such as 200ms, 5s, 15m, 2h or 7d.
func (n node) duration(shortest, longest time.Duration) (time.Duration, bool) {
	text, ok := n.text()
	if !ok {
		return 0, false
	}
	return n.durationOf(text, shortest, longest)
}

func (n node) durationOf(text string, shortest, longest time.Duration) (time.Duration, bool) {
	d, ok := parseDuration(text)
	switch {
	case !ok:
		n.complain("E009", "%s: %s is not a time; write a number with its unit: 200ms, 5s, 15m, 2h or 7d", n.label, quote(text))
	case d < shortest || d > longest:
		n.complain("E009", "%s: %s is not possible; write a time from %s to %s", n.label, text, shortTime(shortest), shortTime(longest))
		ok = false
	}
	return d, ok
}

func parseDuration(text string) (time.Duration, bool) {
	found := durationText.FindStringSubmatch(text)
	if found == nil || leadingZero.MatchString(text) {
		return 0, false
	}
	count, err := strconv.Atoi(found[1])
	unit := time.Millisecond
	switch found[2] {
	case "s":
		unit = time.Second
	case "m":
		unit = time.Minute
	case "h":
		unit = time.Hour
	case "d":
		unit = 24 * time.Hour
	}
	if err != nil || int64(count) > math.MaxInt64/int64(unit) {
		return 0, false
	}
	return time.Duration(count) * unit, true
}

// shortTime is a duration as the file spells it.
func shortTime(d time.Duration) string {
	for _, unit := range []struct {
		name string
		size time.Duration
	}{{"d", 24 * time.Hour}, {"h", time.Hour}, {"m", time.Minute}, {"s", time.Second}} {
		if d >= unit.size && d%unit.size == 0 {
			return strconv.FormatInt(int64(d/unit.size), 10) + unit.name
		}
	}
	return strconv.FormatInt(int64(d/time.Millisecond), 10) + "ms"
}

// size is a number of bytes from low to high, such as 64KiB.
func (n node) size(low, high int64) (int64, bool) {
	text, ok := n.text()
	if !ok {
		return 0, false
	}
	size, ok := parseSize(text)
	switch {
	case !ok:
		n.complain("E009", "%s: %s is not a size; write a number with its unit: 64KiB, 1MiB or 2GiB", n.label, quote(text))
	case size < low || size > high:
		n.complain("E009", "%s: %s is not possible; write a size from %s to %s", n.label, text, shortSize(low), shortSize(high))
		ok = false
	}
	return size, ok
}

func parseSize(text string) (int64, bool) {
	found := sizeText.FindStringSubmatch(text)
	if found == nil || leadingZero.MatchString(text) {
		return 0, false
	}
	count, err := strconv.ParseInt(found[1], 10, 64)
	shift := 10
	switch found[2] {
	case "MiB":
		shift = 20
	case "GiB":
		shift = 30
	}
	return count << shift, err == nil // at most 9 digits
}

// shortSize is a size of whole KiB as the file spells it.
func shortSize(bytes int64) string {
	for _, unit := range []struct {
		name  string
		shift int
	}{{"GiB", 30}, {"MiB", 20}} {
		if bytes%(1<<unit.shift) == 0 {
			return strconv.FormatInt(bytes>>unit.shift, 10) + unit.name
		}
	}
	return strconv.FormatInt(bytes>>10, 10) + "KiB"
}

// prefix is a network, or one address as a network of its own.
func (n node) prefix() (netip.Prefix, bool) {
	text, ok := n.text()
	if !ok {
		return netip.Prefix{}, false
	}
	p, err := netip.ParsePrefix(text)
	if err != nil {
		var a netip.Addr
		a, err = netip.ParseAddr(text)
		p = netip.PrefixFrom(a, a.BitLen())
	}
	switch {
	case err != nil || p.Addr().Zone() != "" || p.Addr().Is4In6():
		n.complain("E009", "%s: %s is no address; write one such as 10.7.4.9, or a network such as 10.7.4.0/24", n.label, quote(text))
	case p != p.Masked():
		n.complain("E009", "%s: %s is neither a network nor one address; write %s or %s", n.label, text, p.Masked(), p.Addr())
	default:
		return p, true
	}
	return netip.Prefix{}, false
}

// between is a range a..b of numbers, in the order written.
func (n node) between() (a, b float64, ok bool) {
	text, ok := n.text()
	if !ok {
		return 0, 0, false
	}
	left, right, dots := strings.Cut(text, "..")
	for _, part := range []string{left, right} {
		if dots && n.zeroes(part) {
			return 0, 0, false
		}
	}
	a, okA := parseNumber(left)
	b, okB := parseNumber(right)
	if !dots || !okA || !okB || strings.HasPrefix(right, ".") { // 0...9 is not 0 to 0.9
		n.complain("E009", "%s: %s is not a range; write two numbers such as 0..100", n.label, quote(text))
		return 0, 0, false
	}
	return a, b, true
}

// ascending is a range whose lower bound comes first.
func (n node) ascending() (low, high float64, ok bool) {
	low, high, ok = n.between()
	if ok && low >= high {
		n.complain("E124", "%s: %s is empty: the lower bound comes first", n.label, quote(n.yaml.Value))
		return 0, 0, false
	}
	return low, high, ok
}

// items are the values of a list.
func (n node) items() ([]node, bool) {
	if n.yaml.Kind != yaml.SequenceNode {
		like := "[a, b]"
		if n.label == "messages" {
			like = "[{ write: POINT, from: FIELD }]"
		}
		n.complain("E007", "%s takes a list, such as %s", n.label, like)
		return nil, false
	}
	if len(n.yaml.Content) == 0 {
		n.complain("E007", "%s is an empty list; name something or drop the key", n.label)
		return nil, false
	}
	list := make([]node, len(n.yaml.Content))
	for i, y := range n.yaml.Content {
		list[i] = n.wrap(y)
		list[i].key = n.key
	}
	return list, true
}
