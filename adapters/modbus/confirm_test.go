package modbus

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	gateway "iothub-gateway"
)

// stubborn is a device with a set-point in 10, its actual value in 20 and a bit in 30.
func stubborn() Device {
	d := Device{Name: "d", Unit: 1, Points: points("d", Holding, time.Hour, 10, 20)}
	follow := reg(Int16, scaled(0.1, 0), func(p *Point) { p.ID, p.Address, p.Poll = "d/follow", 11, time.Hour })
	flag := reg(Bool, bit(2), func(p *Point) { p.ID, p.Address, p.Poll = "d/flag", 30, time.Hour })
	half := reg(Float32, func(p *Point) { p.ID, p.Address, p.Poll = "d/float", 40, time.Hour })
	d.Points = append(d.Points, follow, flag, half)
	return d
}

func TestAWriteIsDoneOnceItCanBeReadBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newField()
		r := run(t, Config{Devices: []Device{stubborn()}}, f)
		pass(2 * time.Second)
		for point, v := range map[gateway.PointID]gateway.Value{
			"d/10": gateway.UintValue(7), "d/flag": gateway.BoolValue(true), "d/float": gateway.FloatValue(1.23456789012),
		} {
			began := time.Now()
			if err := r.Write(t.Context(), point, v, gateway.Confirm{By: point}); err != nil {
				t.Errorf("%s: %v", point, err)
			}
			if took := time.Since(began); took > 100*time.Millisecond {
				t.Errorf("%s took %v although the device had the value at once", point, took)
			}
		}
	})
}

func TestAWriteThatTheDeviceIgnoresIsNotCalledDone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newField()
		r := run(t, Config{Devices: []Device{stubborn()}}, f)
		pass(2 * time.Second)
		f.set(func(f *field) {
			f.trick = func(c *peer, r call) bool { // it says yes and does nothing
				if r.fc == 6 {
					c.send(r.request())
				}
				return r.fc == 6
			}
		})
		err := r.Write(t.Context(), "d/10", gateway.UintValue(7), gateway.Confirm{By: "d/10"})
		if !errors.Is(err, gateway.ErrUncertain) || !strings.Contains(err.Error(), "d/10 is 10, not 7") {
			t.Errorf("%v", err)
		}
		if err := r.Write(t.Context(), "d/10", gateway.UintValue(7), gateway.Confirm{}); err != nil {
			t.Errorf("who does not want it read back hears what the device says: %v", err)
		}
	})
}

func TestAWriteThatCannotBeReadBackIsUncertain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newField()
		r := run(t, Config{Devices: []Device{stubborn()}}, f)
		pass(2 * time.Second)
		f.set(func(f *field) {
			f.trick = func(c *peer, r call) bool {
				if r.fc == 3 {
					c.send(r.exception(2))
				}
				return r.fc == 3
			}
		})
		err := r.Write(t.Context(), "d/10", gateway.UintValue(7), gateway.Confirm{By: "d/10"})
		if !errors.Is(err, gateway.ErrUncertain) || errors.Is(err, gateway.ErrRefused) {
			t.Errorf("%v", err)
		}
	})
}

func TestAWriteIsConfirmedByAnotherPointThatFollows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newField()
		r := run(t, Config{Devices: []Device{stubborn()}}, f)
		pass(2 * time.Second)
		time.AfterFunc(3*time.Second, func() {
			f.set(func(f *field) { f.values[spot{1, Holding, 20}] = 99 }) // 100, give or take 2
		})
		followed := gateway.Confirm{By: "d/20", Tolerance: gateway.Deadband{Absolute: 2}}
		began := time.Now()
		if err := r.Write(t.Context(), "d/follow", gateway.FloatValue(100), followed); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took < 3*time.Second || took > 4*time.Second {
			t.Errorf("took %v", took)
		}
		ctx, cancel := contextFor(t, 2*time.Second)
		defer cancel()
		if err := r.Write(ctx, "d/follow", gateway.FloatValue(200), followed); !errors.Is(err, gateway.ErrUncertain) {
			t.Errorf("%v", err)
		}
	})
}

func TestAPointIsWrittenNoMoreOftenThanItsRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newField()
		d := Device{Name: "d", Unit: 1, Points: points("d", Holding, time.Hour, 10, 11)}
		d.Points[0].WriteRate = 1.0 / 60
		r := run(t, Config{Devices: []Device{d}}, f)
		pass(2 * time.Second)
		ctx, cancel := contextFor(t, 25*time.Second)
		defer cancel()
		if err := r.Write(ctx, "d/10", gateway.UintValue(1), gateway.Confirm{}); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		if err := r.Write(ctx, "d/10", gateway.UintValue(2), gateway.Confirm{}); !errors.Is(err, gateway.ErrTooOften) || time.Since(began) > 0 || f.register(1, 10) != 1 {
			t.Errorf("%v", err)
		}
		if err := r.Write(ctx, "d/11", gateway.UintValue(2), gateway.Confirm{}); err != nil {
			t.Errorf("another point: %v", err)
		}
		pass(time.Minute)
		if err := r.Write(t.Context(), "d/10", gateway.UintValue(3), gateway.Confirm{}); err != nil {
			t.Errorf("a minute later: %v", err)
		}
	})
}
