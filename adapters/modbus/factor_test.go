package modbus

import (
	"errors"
	"fmt"
	"testing"
	"time"

	gateway "iothub-gateway"
)

func factored(address int, factor uint16, ty Type) Point {
	p := reg(ty)
	p.ID, p.Address, p.Factor = gateway.PointID(fmt.Sprint("p", address)), uint16(address), &factor
	return p
}

func TestAValueAndItsScaleFactorComeInOneRequest(t *testing.T) {
	d := Device{MaxRead: 20, Points: []Point{
		factored(10, 22, Int16), factored(24, 23, Uint32), at(Holding, 40, 1), factored(60, 41, Int16),
	}}
	var got []string
	for _, r := range Foresee(Config{}, d)[0].Requests {
		got = append(got, fmt.Sprint(r.Block, r.Points, r.InVain))
	}
	want := "[holding 10..25 [0 1] 11 holding 40 [2] 0 holding 41..60 [3] 18]"
	if fmt.Sprint(got) != want {
		t.Errorf("got %v, want %s", got, want)
	}
}

// MAP-51: model 103, W FF38 with the factor FFFF is -20.0 W.
func TestAScaleFactorScalesTheValueExactly(t *testing.T) {
	for _, c := range []struct {
		raw  string
		want string
	}{
		{"FF38 FFFF", "-20"}, {"0003 FFFF", "0.3"}, {"0003 0002", "300"}, {"0003 0000", "3"}, {"7FFF FFF6", "0.0000032767"},
		{"0003 8000", ""}, {"0003 000B", ""}, {"0003 FFF5", ""}, {"8000 0000", ""},
	} {
		p := factored(14, 15, Int16)
		p.NotAvailable = []uint64{0x8000}
		d := newDevice(Config{Devices: []Device{{Name: "d", Points: []Point{p}}}}, 0, nil)
		s := d.decode(Block{Table: Holding, Start: 14, Quantity: 2, Points: []int{0}}, raw(t, c.raw), time.Now())[0]
		if c.want == "" {
			if !errors.Is(s.Err, gateway.ErrNotAvailable) {
				t.Errorf("%s: %v %v", c.raw, s.Value, s.Err)
			}
		} else if s.Err != nil || s.Value.String() != c.want {
			t.Errorf("%s: %v %v, want %s", c.raw, s.Value, s.Err, c.want)
		}
	}
}
