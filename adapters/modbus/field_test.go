package modbus

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// field is the device side of a link, scripted: every register of every unit holds its own address,
// unless it was written or is a hole. It shares no code with the adapter but the names of tables.
type field struct {
	framing Framing // of what is asked and answered

	mu     sync.Mutex
	values map[spot]uint16
	holes  map[spot]bool
	mute   map[byte]bool
	delay  time.Duration
	// trick answers in the place of the field; nil, or not handled: the field answers.
	trick func(c *peer, r call) (handled bool)
	log   []call
	peers []*peer

	serving sync.WaitGroup
}

type spot struct {
	unit    byte
	table   Table
	address int
}

// call is one request as the field saw it.
type call struct {
	adu      []byte // with the header of MBAP, whatever the framing
	framing  Framing
	unit, fc byte
	address  int
	quantity int // of writes of one: 1
	at       time.Time
}

func (c call) String() string {
	return fmt.Sprintf("unit %d fc %d %d+%d", c.unit, c.fc, c.address, c.quantity)
}

// peer is the field's end of one connection. What it sends waits in a queue, as in a socket.
type peer struct {
	io.ReadWriteCloser
	out  chan []byte
	gone chan struct{} // closed: nothing is sent any more
}

func (p *peer) send(b []byte) {
	select {
	case p.out <- slices.Clone(b):
	case <-p.gone:
	}
}

func newField() *field {
	return &field{values: map[spot]uint16{}, holes: map[spot]bool{}, mute: map[byte]bool{}}
}

func (f *field) set(change func(*field)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(f)
}

// calls are the requests so far.
func (f *field) calls() []call {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.log)
}

func (f *field) conns() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.peers)
}

func (f *field) register(unit byte, address int) uint16 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.value(spot{unit, Holding, address})
}

// value is a register, or 0 or 1 for a bit: the parity of its address.
func (f *field) value(s spot) uint16 {
	if v, ok := f.values[s]; ok {
		return v
	}
	if s.table.Bits() {
		return uint16(s.address & 1)
	}
	return uint16(s.address)
}

// dial connects by a pipe: for synctest.
func (f *field) dial(context.Context, string, string) (net.Conn, error) {
	ours, theirs := net.Pipe()
	f.serving.Go(func() { f.serve(theirs) })
	return ours, nil
}

// listen serves TCP until the test ends, and returns the address.
func (f *field) listen(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f.serving.Go(func() { f.accept(l) })
	t.Cleanup(func() { f.shut(l) })
	return l.Addr().String()
}

// accept serves the connections of l until it is closed.
func (f *field) accept(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		f.serving.Go(func() { f.serve(c) })
	}
}

// shut ends l and all connections.
func (f *field) shut(l net.Listener) {
	_ = l.Close()
	f.set(func(f *field) {
		for _, p := range f.peers {
			_ = p.Close()
		}
	})
	f.serving.Wait()
}

func (f *field) serve(c io.ReadWriteCloser) {
	p := &peer{ReadWriteCloser: c, out: make(chan []byte, 4096), gone: make(chan struct{})}
	f.set(func(f *field) { f.peers = append(f.peers, p) })
	var writer sync.WaitGroup
	writer.Go(func() {
		for {
			select {
			case b := <-p.out:
				_, _ = c.Write(b)
			case <-p.gone:
				return
			}
		}
	})
	defer writer.Wait()
	defer close(p.gone)
	defer c.Close()
	for {
		r, err := readCall(c, f.framing)
		if err != nil {
			return
		}
		f.mu.Lock()
		f.log = append(f.log, r)
		trick, mute, delay := f.trick, f.mute[r.unit], f.delay
		f.mu.Unlock()
		if delay > 0 { // a timer that is due at once can crash the race detector in a bubble
			<-time.After(delay) // the device's own time, part of the script
		}
		if trick != nil && trick(p, r) || mute {
			continue
		}
		p.send(f.answer(r))
	}
}

func readCall(c io.Reader, framing Framing) (call, error) {
	body, id, err := readBody(c, framing) // unit and PDU
	if err != nil {
		return call{}, err
	}
	r := call{adu: sealMBAP(id, body), framing: framing, unit: body[0], fc: body[1], quantity: 1, at: time.Now()}
	r.address = int(binary.BigEndian.Uint16(body[2:]))
	if r.fc <= 4 || r.fc >= 15 && r.fc != 22 {
		r.quantity = int(binary.BigEndian.Uint16(body[4:]))
	}
	return r, nil
}

func readBody(c io.Reader, framing Framing) (body []byte, id uint16, err error) {
	more := func(n int) []byte {
		b := make([]byte, n)
		if err == nil {
			_, err = io.ReadFull(c, b)
		}
		return b
	}
	switch framing {
	case MBAP:
		head := more(6)
		return more(int(binary.BigEndian.Uint16(head[4:]))), binary.BigEndian.Uint16(head), err
	case ASCII:
		line := more(1)
		for err == nil && line[len(line)-1] != '\n' {
			line = append(line, more(1)...)
		}
		body, err := hex.DecodeString(strings.Trim(string(line), ":\r\n"))
		return body[:max(len(body)-1, 0)], 0, err
	}
	body = more(6)
	switch body[1] {
	case 15, 16:
		body = append(body, more(1)...)
		body = append(body, more(int(body[6]))...)
	case 22:
		body = append(body, more(2)...)
	}
	if crc := more(2); err == nil && !bytes.Equal(sealRTU(body)[len(body):], crc) {
		err = fmt.Errorf("the request % X has the CRC % X", body, crc)
	}
	return body, 0, err
}

// reply frames a PDU as the answer to r.
func (r call) reply(pdu ...byte) []byte { return r.replyOf(r.unit, pdu...) }

// replyOf frames a PDU as if a unit had answered r.
func (r call) replyOf(unit byte, pdu ...byte) []byte {
	body := append([]byte{unit}, pdu...)
	switch r.framing {
	case RTU:
		return sealRTU(body)
	case ASCII:
		return sealASCII(body)
	}
	return sealMBAP(transaction(r.adu), body)
}

// request is r as it came.
func (r call) request() []byte { return r.replyOf(r.unit, r.adu[7:]...) }

func (r call) exception(code byte) []byte { return r.reply(r.fc|0x80, code) }

// answer is what a good device says.
func (f *field) answer(r call) []byte {
	f.mu.Lock()
	defer f.mu.Unlock()
	table := Holding
	switch r.fc {
	case 1, 2, 3, 4:
		table = Table(r.fc)
	case 5, 15:
		table = Coil
	}
	for i := range r.quantity {
		if f.holes[spot{r.unit, table, r.address + i}] {
			return r.exception(2)
		}
	}
	at := func(i int) spot { return spot{r.unit, table, r.address + i} }
	body := r.adu[8:]
	switch r.fc {
	case 1, 2:
		out := make([]byte, (r.quantity+7)/8)
		for i := range r.quantity {
			out[i/8] |= byte(f.value(at(i))) << (i % 8)
		}
		return r.reply(append([]byte{r.fc, byte(len(out))}, out...)...)
	case 3, 4:
		out := []byte{r.fc, byte(2 * r.quantity)}
		for i := range r.quantity {
			out = binary.BigEndian.AppendUint16(out, f.value(at(i)))
		}
		return r.reply(out...)
	case 5:
		f.values[at(0)] = uint16(body[2] & 1)
	case 6:
		f.values[at(0)] = binary.BigEndian.Uint16(body[2:])
	case 15:
		for i := range r.quantity {
			f.values[at(i)] = uint16(body[5+i/8] >> (i % 8) & 1)
		}
		body = body[:4]
	case 16:
		for i := range r.quantity {
			f.values[at(i)] = binary.BigEndian.Uint16(body[5+2*i:])
		}
		body = body[:4]
	case 22:
		and, or := binary.BigEndian.Uint16(body[2:]), binary.BigEndian.Uint16(body[4:])
		f.values[at(0)] = f.value(at(0))&and | or&^and
	default:
		return r.exception(1)
	}
	return r.reply(append([]byte{r.fc}, body...)...)
}
