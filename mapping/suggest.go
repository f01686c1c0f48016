package mapping

import "fmt"

// mostCandidates bounds the search for a similar name in a very large file.
const mostCandidates = 2000

// didYouMean is " (did you mean X?)" for the candidate that is most like word, or "" if none is.
func didYouMean(word string, candidates []string) string {
	if best := similar(word, candidates); best != "" {
		return fmt.Sprintf(" (did you mean %s?)", best)
	}
	return ""
}

// similar is the candidate that is most like word: at most two letters away, in a short word one.
func similar(word string, candidates []string) string {
	if len(candidates) > mostCandidates {
		return ""
	}
	best, limit := "", 2
	if len(word) <= 3 {
		limit = 1
	}
	for _, c := range candidates {
		if d := distance(word, c); d <= limit && d < len(c) {
			best, limit = c, d-1
		}
	}
	return best
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
