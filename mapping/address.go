package mapping

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"iothub-gateway/adapters/modbus"
)

// address is a place in a unit, as it goes on the wire.
type address struct {
	table    modbus.Table
	register uint16
	bit      int // 0 to 15, or modbus.WholeRegister
}

// doubt is what locate finds wrong or doubtful: a finding without its place.
type doubt struct{ code, message string }

var (
	digitsText  = regexp.MustCompile(`^[0-9]+$`)
	wireText    = regexp.MustCompile(`^0[xX][0-9a-fA-F]+$`)
	bitText     = regexp.MustCompile(`^(.*)\.([0-9]+)$`)
	decimalLike = regexp.MustCompile(`^[0-9]+\.[0-9]+$`)
	iecText     = regexp.MustCompile(`^%M(W?)([0-9]+)$`)
	areaText    = regexp.MustCompile(`^([0134][xX]|[A-Za-z]+)`)
	lastNumber  = regexp.MustCompile(`[0-9]+$`)
)

// address reads the value of at.
func (n node) address(c counting) (address, bool) {
	text, ok := n.text()
	if !ok {
		return address{}, false
	}
	if n.plain() && leadingZero.MatchString(text) && digitsText.MatchString(text) {
		n.complain("E010", "at: %s has a leading zero and means another number to some YAML tools; a Modicon number of a coil needs quotes: %q", text, text)
		return address{}, false
	}
	place, doubts := locate(text, c)
	for _, d := range doubts {
		n.complain(d.code, "%s", d.message)
	}
	if n.plain() && decimalLike.MatchString(text) && place.table != 0 {
		n.complain("W203", "%s looks like a decimal number; it is read as bit %d, but tools that rewrite YAML may shorten it: put it in quotes, or write bit: %d",
			text, place.bit, place.bit)
	}
	return place, place.table != 0
}

// locate reads an address as a person writes it (MB-31). The address is good if its table is not 0;
// there may be doubts about a good one too.
func locate(text string, c counting) (address, []doubt) {
	head, bit := text, modbus.WholeRegister
	if found := bitText.FindStringSubmatch(text); found != nil {
		i, err := strconv.Atoi(found[2])
		if err != nil || i > 15 {
			return noAddress("E112", "bit %q: a register has bits 0 to 15 (bit 0 is the least significant)", shorten(found[2]))
		}
		head, bit = found[1], i
	}
	words := strings.Fields(head)
	var place address
	var doubts []doubt
	switch {
	case strings.HasPrefix(head, "%"):
		place, doubts = locateIEC(strings.ToUpper(head))
	case len(words) == 1 && digitsText.MatchString(head):
		place, doubts = locateModicon(head, c)
	case len(words) == 1 && wireText.MatchString(head):
		return noAddress("E116", "%s has no area; write holding %s, input %s, coil %s or discrete %s", quote(head), shorten(head), shorten(head), shorten(head), shorten(head))
	case len(words) == 2:
		place, doubts = locateArea(words[0], words[1], c)
	default:
		return unknownArea(head)
	}
	if place.table != 0 && place.table.Bits() && bit >= 0 {
		return noAddress("E118", "a %s is a single bit already; drop .%d", tableName(place.table), bit)
	}
	place.bit = bit
	return place, doubts
}

// noAddress is the answer of locate that refuses.
func noAddress(code, format string, args ...any) (address, []doubt) {
	return address{}, []doubt{{code, fmt.Sprintf(format, args...)}}
}

func shorten(text string) string { return text[:min(len(text), 12)] }

// tableOf is the table that an area's word names; 0 if none.
func tableOf(area string) modbus.Table {
	for _, t := range []modbus.Table{modbus.Coil, modbus.Discrete, modbus.Holding, modbus.Input} {
		if area == t.String() {
			return t
		}
	}
	return 0
}

// tableName is the table in a sentence.
func tableName(t modbus.Table) string {
	switch t {
	case modbus.Coil:
		return "coil"
	case modbus.Discrete:
		return "discrete input"
	case modbus.Holding:
		return "holding register"
	}
	return "input register"
}

// withArticle is "a coil" or "an input register".
func withArticle(noun string) string {
	if strings.ContainsRune("aeiou", rune(noun[0])) {
		return "an " + noun
	}
	return "a " + noun
}

// unknownArea finds out what somebody meant who wrote an address in another notation.
func unknownArea(text string) (address, []doubt) {
	area := areaText.FindString(text)
	meant := ""
	switch strings.ToLower(area) {
	case "holding", "hold", "hr", "h", "reg", "register":
		meant = "holding"
	case "input", "ir", "i":
		meant = "input"
	case "coil", "coils", "co", "c", "do":
		meant = "coil"
	case "discrete", "di", "d":
		meant = "discrete"
	case "1x", "3x", "4x": // 4x0001 is how HMIs write 40001
		if number := text[2:]; digitsText.MatchString(number) && len(number) <= 5 {
			return noAddress("E110", "%s is the Modicon number %c%04s; set addressing: modicon and write that", quote(text), text[0], number)
		}
	}
	hint := didYouMean(area, []string{"holding", "input", "coil", "discrete"})
	if number := lastNumber.FindString(text); meant != "" && number != "" {
		hint = fmt.Sprintf(" (did you mean %s %s?)", meant, shorten(number))
	}
	return noAddress("E110", "unknown area in %s; write holding, input, coil or discrete, a space and the number, such as holding 100%s", quote(text), hint)
}

// locateArea reads "holding 100" and "input 0x34".
func locateArea(area, number string, c counting) (address, []doubt) {
	table := tableOf(area)
	switch {
	case table == 0:
		return unknownArea(area + " " + number)
	case wireText.MatchString(number):
		return locateWire(table, number, c)
	case !digitsText.MatchString(number):
		return noAddress("E116", "%s is not a register number; write %s 100 or, as on the wire, %s 0x64", quote(number), area, area)
	case leadingZero.MatchString(number):
		return noAddress("E010", "%s has a leading zero and means another number to some tools; write %s %s", quote(number), area, withoutZeroes(number))
	case c == byModicon:
		return noAddress("E117", "with addressing: modicon write %s as 5 or 6 digits without the word %s (%s is the first), or as the address on the wire: %s 0x64", withArticle(tableName(table)), area, firstOf(table), area)
	case number == "0" && c == fromOne:
		return noAddress("E114", "%s 0 does not exist with addressing: one (the first %s is 1); if the manual counts from 0, set addressing: zero", area, tableName(table))
	}
	i, err := strconv.Atoi(number)
	register := i
	if c != fromZero { // undecided: as far as either counting goes
		register = max(i-1, 0)
	}
	if err != nil || register > 65535 {
		return tooHigh(table, number)
	}
	place := address{table: table, register: uint16(register)}
	nth := i - 10000*int(modiconDigit(table))
	if table == modbus.Coil || nth < 1 || nth > 9999 || c == undecided {
		return place, nil
	}
	first := nth // what it is called when counting as c does
	if c == fromZero {
		first--
	}
	return place, []doubt{{"W202", fmt.Sprintf("%s %d asks the device for protocol address %d; if the manual means its %s number %d, write %s %d, or set addressing: modicon and write %d",
		area, i, register, tableName(table), nth, area, first, i)}}
}

// locateWire reads a hexadecimal number, which is always the address on the wire (MB-32).
func locateWire(table modbus.Table, number string, c counting) (address, []doubt) {
	register, err := strconv.ParseUint(number[2:], 16, 16)
	if err != nil {
		return tooHigh(table, number)
	}
	place := address{table: table, register: uint16(register)}
	if c == fromOne {
		return place, []doubt{{"W201", fmt.Sprintf("hexadecimal address with addressing: one is taken as the protocol address %s without subtracting 1", number)}}
	}
	return place, nil
}

// tooHigh refuses an address that the protocol cannot carry.
func tooHigh(table modbus.Table, number string) (address, []doubt) {
	i, err := strconv.Atoi(number)
	nth := i - 100000*int(modiconDigit(table))
	if err == nil && nth >= 1 && nth <= 65536 {
		return noAddress("E115", "%s %s is above 65535; it looks like a Modicon number: set addressing: modicon and write %s, or write %s %d", table, number, number, table, nth-1)
	}
	return noAddress("E115", "%s %s is past the last register, which is 65535 on the wire", table, shorten(number))
}

// modiconDigit is the first digit of a table's Modicon numbers.
func modiconDigit(t modbus.Table) byte {
	switch t {
	case modbus.Coil:
		return 0
	case modbus.Discrete:
		return 1
	case modbus.Input:
		return 3
	}
	return 4
}

// firstOf is the Modicon number of a table's first address. That of coils needs quotes.
func firstOf(t modbus.Table) string {
	if t == modbus.Coil {
		return `"00001"`
	}
	return fmt.Sprintf("%d0001", modiconDigit(t))
}

// locateModicon reads 40001 and 400001.
func locateModicon(number string, c counting) (address, []doubt) {
	if c == fromZero || c == fromOne {
		return noAddress("E116", "%s has no area; write holding %s, input %s, coil %s or discrete %s, or set addressing: modicon for numbers such as 40001",
			quote(number), shorten(number), shorten(number), shorten(number), shorten(number))
	}
	if len(number) != 5 && len(number) != 6 {
		return noAddress("E117", "%s: a Modicon number has 5 or 6 digits (00001-09999 coils, 10001-19999 discrete inputs, 30001-39999 input registers, 40001-49999 holding registers)", quote(number))
	}
	nth, err := strconv.Atoi(number[1:])
	for _, t := range []modbus.Table{modbus.Coil, modbus.Discrete, modbus.Input, modbus.Holding} {
		if err == nil && number[0] == '0'+modiconDigit(t) && nth >= 1 && nth <= 65536 {
			return address{table: t, register: uint16(nth - 1)}, nil
		}
	}
	return noAddress("E117", "%s is not a Modicon number: the first digit must be 0, 1, 3 or 4 and the rest lies in 1 to 9999, or to 65536 with 6 digits", quote(number))
}

// locateIEC reads %MW100 and %M12, which count from 0 on every PLC.
func locateIEC(text string) (address, []doubt) {
	found := iecText.FindStringSubmatch(text)
	if found == nil {
		return noAddress("E111", "%s means a different register on different PLCs; write the %%MW number of its first word, %%M for a bit, or input or discrete and the number", quote(text))
	}
	table := modbus.Coil
	if found[1] != "" {
		table = modbus.Holding
	}
	register, err := strconv.ParseUint(found[2], 10, 16)
	if err != nil {
		return tooHigh(table, found[2])
	}
	return address{table: table, register: uint16(register)}, nil
}
