package modbus

// wireOrder says which byte of a value of width bytes stands at each place on the wire; byte 0 is
// the most significant. The four-letter names apply to every width, a permutation of so many letters to
// width bytes (MB-36).
func wireOrder(name string, width int) []int {
	order := make([]int, width)
	for i := range order {
		order[i] = i
		if len(name) == width {
			order[i] = int(name[i] - 'a')
		}
	}
	if len(name) == width {
		return order
	}
	if name == "cdab" || name == "dcba" { // the words stand in reverse
		for i := range order {
			order[i] = (width/2-1-i/2)*2 + i%2
		}
	}
	if swapped(name) {
		for i := 0; i+1 < width; i += 2 {
			order[i], order[i+1] = order[i+1], order[i]
		}
	}
	return order
}

// gather is the number that raw holds in the given order.
func gather(order []int, raw []byte) uint64 {
	var bits uint64
	for i, b := range raw {
		bits |= uint64(b) << (8 * (len(order) - 1 - order[i]))
	}
	return bits
}

// scatterBits is gather's inverse.
func scatterBits(order []int, bits uint64) []byte {
	raw := make([]byte, len(order))
	for i := range raw {
		raw[i] = byte(bits >> (8 * (len(order) - 1 - order[i])))
	}
	return raw
}
