package mapping

import (
	"fmt"
	"strings"
)

// mostCandidates bounds the search for a similar name in a very large file.
const mostCandidates = 2000

// didYouMean is " (did you mean X?)" for the candidate that is most like word, or "" if none is.
func didYouMean(word string, candidates []string) string {
	if best := similar(word, candidates); best != "" {
		return fmt.Sprintf(" (did you mean %s?)", best)
	}
	return ""
}

// similar is the candidate that is most like word: the same but for upper and lower case, or at most two letters
// away, in a short word one, or the only one that begins with it.
func similar(word string, candidates []string) string {
	if len(candidates) > mostCandidates {
		return ""
	}
	best, limit := "", 2
	if len(word) <= 3 {
		limit = 1
	}
	var longer []string
	for _, c := range candidates {
		if strings.EqualFold(word, c) {
			return c
		}
		if d := distance(word, c); d <= limit && d < len(c) {
			best, limit = c, d-1
		}
		if word != "" && len(word) < len(c) && strings.EqualFold(word, c[:len(word)]) {
			longer = append(longer, c)
		}
	}
	if best == "" && len(longer) == 1 {
		return longer[0]
	}
	return best
}

// synonym is the key of a mapping that other products call word; "" if it is not known.
func synonym(word string) string {
	switch strings.ToLower(strings.NewReplacer("_", "", "-", "").Replace(word)) {
	case "register", "reg", "address", "addr":
		return "at"
	case "slave", "slaveid", "unitid", "station":
		return "unit"
	case "ip", "ipaddress":
		return "tcp"
	case "baudrate":
		return "baud"
	case "interval", "period", "scanrate", "pollinterval", "polling":
		return "poll"
	case "datatype":
		return "type"
	case "byteorder", "wordorder", "endian", "endianness":
		return "order"
	case "factor", "multiplier", "gain":
		return "scale"
	case "key", "sharedaccesskey", "connectionstring":
		return "sas_key"
	case "deviceid":
		return "device"
	case "writable", "writeable":
		return "write"
	}
	return ""
}

// example is how what stands behind a key is written, for whoever wrote it in another form.
func example(key string) string {
	switch key {
	case "hub":
		return "{ host: NAME.azure-devices.net }"
	case "identity":
		return "{ device: ID, sas_key: file:PATH }"
	case "modbus":
		return "{ tcp: HOST:502, unit: 1, addressing: modicon }"
	case "coap":
		return "{ listener: NAME, psk: NAME, path: /report }"
	case "publish":
		return "{ on: change, at_least_every: 15m }"
	case "offline":
		return "{ after: 3, retry: 5s..2m }"
	case "write":
		return "{ min: 0, max: 100 }"
	case "enum", "flags":
		return "{ 0: stopped, 1: running }"
	case "linear":
		return "{ raw: 0..27648, to: 0..10 }"
	case "desired":
		return "{ PROPERTY: { write: POINT } }"
	case "methods":
		return "{ NAME: { write: POINT, from: FIELD } }"
	case "points":
		return "{ NAME: { at: holding 100, type: int16 } }"
	}
	return "{ key: value }"
}

// distance counts the letters to insert, drop, change or swap with their neighbour to make b of a.
// Texts that are much unlike are not looked at closely: the answer is then just large.
func distance(a, b string) int {
	const longest = 64
	if len(a)-len(b) > 2 || len(b)-len(a) > 2 || len(a) > longest || len(b) > longest {
		return longest
	}
	var rows [3][longest + 1]int
	for j := range len(b) + 1 {
		rows[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		above, row, twoAbove := &rows[(i+2)%3], &rows[i%3], &rows[(i+1)%3]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			change := above[j-1]
			if a[i-1] != b[j-1] {
				change++
			}
			row[j] = min(change, above[j]+1, row[j-1]+1)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], twoAbove[j-2]+1)
			}
		}
	}
	return rows[len(a)%3][len(b)]
}
