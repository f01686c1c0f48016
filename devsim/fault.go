package devsim

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// Misdeed is what a Fault makes of an answer.
type Misdeed string

// The misdeeds. Exception and Silent leave the request undone; with all others it is carried out.
const (
	Silent    Misdeed = "silent"     // no answer
	Exception Misdeed = "exception"  // Code instead
	Late      Misdeed = "late"       // After to Until later, while other requests are answered; not at all if Until has passed
	WrongUnit Misdeed = "wrong_unit" // from another unit
	WrongID   Misdeed = "wrong_id"   // with the transaction id of the request before; only Modbus/TCP has one
	Short     Misdeed = "short"      // without its last Bytes
	Garbage   Misdeed = "garbage"    // random Bytes instead
	Noise     Misdeed = "noise"      // random Bytes before and behind
	Corrupt   Misdeed = "corrupt"    // one bit is wrong, so that the checksum is; of Modbus/TCP, one of the protocol id
	Split     Misdeed = "split"      // in pieces of Bytes, After between them
	Echo      Misdeed = "echo"       // behind a copy of the request
	Twice     Misdeed = "twice"      // two times
	Hangup    Misdeed = "hangup"     // half of it, then the connection ends; a serial line is pulled out and plugged in
)

func misdeeds() []Misdeed {
	return []Misdeed{Silent, Exception, Late, WrongUnit, WrongID, Short, Garbage, Noise, Corrupt, Split, Echo, Twice, Hangup}
}

// Fault is one rule of a Script: what to do, how, to which requests and how often.
type Fault struct {
	Do Misdeed
	// Unit, Function and Addresses, first to last, say which requests it is for; what is nil or 0 is every
	// one. One address in common suffices: a hole is an Exception 2 at its addresses.
	Unit      *uint8
	Function  byte
	Addresses *[2]uint16
	// Chance of each such request, 0 to 1; 0 is 1.
	Chance float64
	// Times is how often at most; 0 for ever.
	Times int

	Code         byte          // of Exception; 0 is 2, illegal data address
	Bytes        int           // of Short, Garbage, Noise and Split; 0 is 1
	After, Until time.Duration // of Late, and After of Split; Until 0 is After, however late that becomes
}

// Script is the faults of every link, by its name in the mapping. Of a link's faults the first that fits
// a request and has the chance is done.
type Script map[string][]Fault

// faultForm is a Fault as it is written.
type faultForm struct {
	Do        Misdeed    `json:"do"`
	Unit      *uint8     `json:"unit"`
	Function  byte       `json:"function"`
	Addresses *[2]uint16 `json:"addresses"`
	Chance    float64    `json:"chance"`
	Times     int        `json:"times"`
	Code      byte       `json:"code"`
	Bytes     int        `json:"bytes"`
	After     string     `json:"after"`
	Until     string     `json:"until"`
}

// ReadScript reads a script in JSON, such as
//
//	{"hall": [
//	  {"do": "exception", "code": 2, "unit": 3, "addresses": [40, 45]},
//	  {"do": "late", "after": "1.2s", "until": "1.9s", "chance": 0.01},
//	  {"do": "noise", "bytes": 5, "chance": 0.02, "times": 100}]}
//
// The error names the link and the number of the fault that is wrong.
func ReadScript(r io.Reader) (Script, error) {
	var forms map[string][]faultForm
	d := json.NewDecoder(r)
	d.DisallowUnknownFields()
	if err := d.Decode(&forms); err != nil {
		return nil, fmt.Errorf("fault script: %w", err)
	}
	script, errs := Script{}, []error(nil)
	for link, list := range forms {
		script[link] = []Fault{}
		for i, form := range list {
			f, err := form.fault()
			if err != nil {
				errs = append(errs, fmt.Errorf("fault script: %s, fault %d: %w", link, i+1, err))
			}
			script[link] = append(script[link], f)
		}
	}
	return script, errors.Join(errs...)
}

func (form faultForm) fault() (Fault, error) {
	f := Fault{
		Do: form.Do, Unit: form.Unit, Function: form.Function, Addresses: form.Addresses,
		Chance: form.Chance, Times: form.Times, Code: form.Code, Bytes: form.Bytes,
	}
	for text, into := range map[*string]*time.Duration{&form.After: &f.After, &form.Until: &f.Until} {
		d, err := time.ParseDuration(*text)
		if *text != "" && (err != nil || d < 0) {
			return f, fmt.Errorf("%q is no duration such as 200ms", *text)
		}
		*into = d
	}
	return f, f.check()
}

func (f Fault) check() error {
	switch {
	case !slices.Contains(misdeeds(), f.Do):
		return fmt.Errorf("do %q: one of %s", f.Do, strings.Trim(fmt.Sprint(misdeeds()), "[]"))
	case f.Chance < 0 || f.Chance > 1:
		return fmt.Errorf("chance %g: 0 to 1", f.Chance)
	case f.Addresses != nil && f.Addresses[0] > f.Addresses[1]:
		return fmt.Errorf("addresses %d: the first and the last", *f.Addresses)
	case f.Times < 0 || f.Bytes < 0 || f.Bytes > maxPDU:
		return fmt.Errorf("times %d, bytes %d: 0 or more, and up to %d bytes", f.Times, f.Bytes, maxPDU)
	}
	return nil
}

// fits tells whether the fault is for the request.
func (f Fault) fits(r frame) bool {
	if f.Unit != nil && *f.Unit != r.unit || f.Function != 0 && f.Function != r.pdu[0] {
		return false
	}
	if f.Addresses == nil {
		return true
	}
	first, last, ok := addressed(r.pdu)
	return ok && first <= int(f.Addresses[1]) && last >= int(f.Addresses[0])
}

// addressed is what a request reads or writes; of one that does both, what it reads.
func addressed(pdu []byte) (first, last int, ok bool) {
	if len(pdu) < 5 {
		return 0, 0, false
	}
	first = int(binary.BigEndian.Uint16(pdu[1:]))
	switch pdu[0] {
	case readCoils, readDiscrete, readHolding, readInput, writeCoils, writeRegisters, readWriteRegisters:
		return first, first + int(binary.BigEndian.Uint16(pdu[3:])) - 1, true
	case writeCoil, writeRegister, maskWrite:
		return first, first, true
	}
	return 0, 0, false
}

// undone tells whether the request is not carried out.
func (f Fault) undone() bool { return f.Do == Silent || f.Do == Exception }

// piece is a part of what goes back, after a wait.
type piece struct {
	wait  time.Duration
	bytes []byte
}

// spoil makes of the answer to a request what goes back instead. Pieces never share bytes with it.
func (f Fault) spoil(wire framer, r, answer frame, random *rand.Rand) []piece {
	good := wire.pack(nil, answer)
	n := max(f.Bytes, 1)
	switch f.Do {
	case Silent:
		return nil
	case Late:
		return []piece{{f.After + time.Duration(random.Float64()*float64(max(f.Until-f.After, 0))), good}}
	case WrongUnit:
		answer.unit = answer.unit%247 + 1
		good = wire.pack(nil, answer)
	case WrongID:
		answer.id--
		good = wire.pack(nil, answer)
	case Short:
		good = good[:max(len(good)-n, 1)]
	case Garbage:
		good = randomBytes(random, n)
	case Noise:
		good = slices.Concat(randomBytes(random, n), good, randomBytes(random, n))
	case Corrupt:
		from, bytes, bits := 0, len(good), 8
		switch wire.(type) {
		case tcpFramer:
			from, bytes = 2, 2
		case asciiFramer:
			bits = 4 // a further one only makes a small letter
		}
		good[from+random.IntN(bytes)] ^= 1 << random.IntN(bits)
	case Split:
		var pieces []piece
		for part := range slices.Chunk(good, n) {
			pieces = append(pieces, piece{f.After, part})
		}
		pieces[0].wait = 0
		return pieces
	case Echo:
		good = append(wire.pack(nil, r), good...)
	case Twice:
		good = slices.Concat(good, good)
	case Hangup:
		good = good[:len(good)/2]
	}
	return []piece{{0, good}}
}

func randomBytes(random *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(random.Uint32())
	}
	return b
}

// code is that of an Exception.
func (f Fault) code() byte {
	if f.Code == 0 {
		return byte(illegalDataAddress)
	}
	return f.Code
}
