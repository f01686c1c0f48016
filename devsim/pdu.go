package devsim

import (
	"encoding/binary"

	"iothub-gateway/adapters/modbus"
)

// exception is a Modbus exception code (MB-7); 0 is none.
type exception byte

const (
	none               exception = 0
	illegalFunction    exception = 1
	illegalDataAddress exception = 2
	illegalDataValue   exception = 3
	targetNoResponse   exception = 0x0B
)

// Function codes (MB-2).
const (
	readCoils          = 1
	readDiscrete       = 2
	readHolding        = 3
	readInput          = 4
	writeCoil          = 5
	writeRegister      = 6
	writeCoils         = 15
	writeRegisters     = 16
	maskWrite          = 22
	readWriteRegisters = 23
)

// Quantities that one request may ask for (MB-2); those of the registers also obey the unit's own.
const (
	maxReadBits  = 2000
	maxWriteBits = 1968
	maxWriteIn23 = 121
)

// answer appends the response to a request PDU of at least one byte. The checks come in the order of
// the standard: function, then quantity and form, then address.
func (u *unit) answer(out, pdu []byte, now tick) []byte {
	u.mu.Lock()
	defer u.mu.Unlock()
	answered, exc := u.execute(append(out, pdu[0]), pdu[0], request{pdu[1:]}, now)
	if exc != none {
		return appendException(out, pdu[0], exc)
	}
	return answered
}

func appendException(out []byte, function byte, exc exception) []byte {
	return append(out, function|0x80, byte(exc))
}

// execute appends what follows the function code. A request it refuses has changed nothing.
func (u *unit) execute(out []byte, function byte, r request, now tick) ([]byte, exception) {
	switch function {
	case readCoils, readDiscrete:
		return u.readBits(out, r, modbus.Table(function), now)
	case readHolding, readInput:
		return u.readRegisters(out, r, modbus.Table(function), now)
	case writeCoil:
		return u.writeCoil(out, r)
	case writeRegister:
		return u.writeRegister(out, r)
	case writeCoils:
		return u.writeCoils(out, r)
	case writeRegisters:
		return u.writeRegisters(out, r)
	case maskWrite:
		return u.maskWrite(out, r)
	case readWriteRegisters:
		return u.readWrite(out, r, now)
	}
	return out, illegalFunction
}

// request is a PDU behind its function code.
type request struct{ data []byte }

func (r request) has(bytes int) bool { return len(r.data) == bytes }

// u16 is the i-th field of two bytes.
func (r request) u16(i int) int { return int(binary.BigEndian.Uint16(r.data[2*i:])) }

func (u *unit) readBits(out []byte, r request, kind modbus.Table, now tick) ([]byte, exception) {
	if !r.has(4) || r.u16(1) < 1 || r.u16(1) > maxReadBits {
		return out, illegalDataValue
	}
	start, n := r.u16(0), r.u16(1)
	if exc := u.readable(kind, start, n); exc != none {
		return out, exc
	}
	u.refresh(kind, start, start+n, now)
	bytes := (n + 7) / 8
	out = append(out, byte(bytes))
	for range bytes {
		out = append(out, 0)
	}
	packed := out[len(out)-bytes:]
	for i := range n {
		if c := u.tables[kind].cells[uint16(start+i)]; c != nil {
			packed[i/8] |= byte(c.word&1) << (i % 8)
		}
	}
	return out, none
}

func (u *unit) readRegisters(out []byte, r request, kind modbus.Table, now tick) ([]byte, exception) {
	if !r.has(4) {
		return out, illegalDataValue
	}
	start, n := r.u16(0), r.u16(1)
	if exc := u.mayRead(kind, start, n); exc != none {
		return out, exc
	}
	return u.appendRegisters(out, kind, start, n, now), none
}

// mayRead checks quantity and address of a read of registers.
func (u *unit) mayRead(kind modbus.Table, start, n int) exception {
	if n < 1 || n > u.maxRead {
		return illegalDataValue
	}
	if u.even && (start%2 != 0 || n%2 != 0) {
		return illegalDataAddress
	}
	return u.readable(kind, start, n)
}

func (u *unit) appendRegisters(out []byte, kind modbus.Table, start, n int, now tick) []byte {
	u.refresh(kind, start, start+n, now)
	out = append(out, byte(2*n))
	for i := range n {
		var word uint16
		if c := u.tables[kind].cells[uint16(start+i)]; c != nil {
			word = c.word
		}
		out = binary.BigEndian.AppendUint16(out, word)
	}
	return out
}

// readable tells whether the addresses exist: what no point covers reads as 0, or does not exist if
// holes are strict.
func (u *unit) readable(kind modbus.Table, start, n int) exception {
	if start+n > 1<<16 {
		return illegalDataAddress
	}
	if u.strict {
		for i := range n {
			if u.tables[kind].cells[uint16(start+i)] == nil {
				return illegalDataAddress
			}
		}
	}
	return none
}

// writable tells whether every address has something that the mapping lets the cloud write. There is
// no other memory to write to, so that a write which went astray is seen.
func (u *unit) writable(kind modbus.Table, start, n int) exception {
	if start+n > 1<<16 {
		return illegalDataAddress
	}
	for i := range n {
		if c := u.tables[kind].cells[uint16(start+i)]; c == nil || c.writable == 0 {
			return illegalDataAddress
		}
	}
	return none
}

// put writes the bits of one cell that a client may write.
func (u *unit) put(kind modbus.Table, address int, word uint16) {
	c := u.tables[kind].cells[uint16(address)]
	c.word = c.word&^c.writable | word&c.writable
}

func (u *unit) writeCoil(out []byte, r request) ([]byte, exception) {
	if !r.has(4) || r.u16(1) != 0xFF00 && r.u16(1) != 0 {
		return out, illegalDataValue
	}
	if exc := u.writable(modbus.Coil, r.u16(0), 1); exc != none {
		return out, exc
	}
	u.put(modbus.Coil, r.u16(0), uint16(r.data[2]&1))
	return append(out, r.data...), none
}

func (u *unit) writeRegister(out []byte, r request) ([]byte, exception) {
	if !r.has(4) {
		return out, illegalDataValue
	}
	if exc := u.writable(modbus.Holding, r.u16(0), 1); exc != none {
		return out, exc
	}
	u.put(modbus.Holding, r.u16(0), uint16(r.u16(1)))
	return append(out, r.data...), none
}

func (u *unit) writeCoils(out []byte, r request) ([]byte, exception) {
	if len(r.data) < 5 || r.u16(1) < 1 || r.u16(1) > maxWriteBits {
		return out, illegalDataValue
	}
	start, n := r.u16(0), r.u16(1)
	bytes := (n + 7) / 8
	if int(r.data[4]) != bytes || !r.has(5+bytes) {
		return out, illegalDataValue
	}
	if exc := u.writable(modbus.Coil, start, n); exc != none {
		return out, exc
	}
	for i := range n {
		u.put(modbus.Coil, start+i, uint16(r.data[5+i/8]>>(i%8))&1)
	}
	return append(out, r.data[:4]...), none
}

func (u *unit) writeRegisters(out []byte, r request) ([]byte, exception) {
	if len(r.data) < 5 || r.u16(1) < 1 || r.u16(1) > u.maxWrite {
		return out, illegalDataValue
	}
	start, n := r.u16(0), r.u16(1)
	if int(r.data[4]) != 2*n || !r.has(5+2*n) {
		return out, illegalDataValue
	}
	if exc := u.writable(modbus.Holding, start, n); exc != none {
		return out, exc
	}
	u.putAll(start, r.data[5:])
	return append(out, r.data[:4]...), none
}

func (u *unit) putAll(start int, words []byte) {
	for i := range len(words) / 2 {
		u.put(modbus.Holding, start+i, binary.BigEndian.Uint16(words[2*i:]))
	}
}

// maskWrite makes (current AND and) OR (or AND NOT and) of a register. What moves in it need not be
// brought up to date first: no client writes those bits.
func (u *unit) maskWrite(out []byte, r request) ([]byte, exception) {
	if !r.has(6) {
		return out, illegalDataValue
	}
	address, and, or := r.u16(0), uint16(r.u16(1)), uint16(r.u16(2))
	if exc := u.writable(modbus.Holding, address, 1); exc != none {
		return out, exc
	}
	current := u.tables[modbus.Holding].cells[uint16(address)].word
	u.put(modbus.Holding, address, current&and|or&^and)
	return append(out, r.data...), none
}

// readWrite writes first, then reads.
func (u *unit) readWrite(out []byte, r request, now tick) ([]byte, exception) {
	if len(r.data) < 9 {
		return out, illegalDataValue
	}
	readStart, reads, writeStart, writes := r.u16(0), r.u16(1), r.u16(2), r.u16(3)
	if writes < 1 || writes > min(u.maxWrite, maxWriteIn23) || int(r.data[8]) != 2*writes || !r.has(9+2*writes) {
		return out, illegalDataValue
	}
	if exc := u.mayRead(modbus.Holding, readStart, reads); exc != none {
		return out, exc
	}
	if exc := u.writable(modbus.Holding, writeStart, writes); exc != none {
		return out, exc
	}
	u.putAll(writeStart, r.data[9:])
	return u.appendRegisters(out, modbus.Holding, readStart, reads, now), none
}
