package devsim

import (
	"testing"
	"time"

	gateway "iothub-gateway"
	"iothub-gateway/adapters/modbus"
)

// each runs check at every second of an hour.
func eachSecond(s *Sim, check func(second int)) {
	for second := range 3600 {
		s.now = func() time.Time { return time.Unix(noon+int64(second), 0) }
		check(second)
	}
}

func TestPointsThatShareARegisterAgreeAtAnyTime(t *testing.T) {
	s := build(t, Config{Plant: boilerPlant()})
	toggles, last := 0, valueOf(t, s, "boiler/pump_fault")
	eachSecond(s, func(second int) {
		word := uint64(numberOf(t, s, "boiler/alarm_word"))
		fault := valueOf(t, s, "boiler/pump_fault")
		if want := gateway.BoolValue(word>>3&1 != 0); fault != want {
			t.Fatalf("second %d: pump_fault %v in word %#x", second, fault, word)
		}
		if word&^0x1008 != 0 {
			t.Fatalf("second %d: %#x has bits that no point names", second, word)
		}
		if fault != last {
			toggles, last = toggles+1, fault
		}
	})
	if toggles < 50 {
		t.Errorf("pump_fault toggled %d times in an hour", toggles)
	}
}

func TestAnEnumKeepsItsWordsWhenBitsNameItsRegister(t *testing.T) {
	state := with(at("state", modbus.Holding, 5, modbus.Uint16), func(p *modbus.Point) {
		p.Enum = []modbus.EnumWord{{Raw: 1, Word: "run"}, {Raw: 4, Word: "stop"}}
	})
	stopped := with(at("stopped", modbus.Holding, 5, modbus.Bool), bit(2))
	s := build(t, Config{Plant: plantOf(stopped, state)})
	eachSecond(s, func(second int) {
		word, _ := valueOf(t, s, "boiler/state").Text()
		if word != "run" && word != "stop" {
			t.Fatalf("second %d: no word: %q", second, word)
		}
		if got, want := valueOf(t, s, "boiler/stopped"), gateway.BoolValue(word == "stop"); got != want {
			t.Fatalf("second %d: stopped is %v while the state is %s", second, got, word)
		}
	})
}

func TestAHeldWordHoldsTheBitsInItAndAHeldBitLetsOthersMove(t *testing.T) {
	second := with(at("valve_fault", modbus.Holding, 99, modbus.Bool), bit(4))
	plant := boilerPlant()
	plant.Links[0].Devices[0].Points = append(plant.Links[0].Devices[0].Points, second)

	s := build(t, Config{Plant: plant})
	set(t, s, "boiler/alarm_word", gateway.UintValue(0x0008))
	eachSecond(s, func(int) {
		if word := numberOf(t, s, "boiler/alarm_word"); word != 8 {
			t.Fatalf("the held word became %g", word)
		}
	})

	s = build(t, Config{Plant: plant})
	set(t, s, "boiler/pump_fault", gateway.BoolValue(true))
	seen := make(map[gateway.Value]bool)
	eachSecond(s, func(int) {
		if valueOf(t, s, "boiler/pump_fault") != gateway.BoolValue(true) {
			t.Fatal("the held bit moved")
		}
		seen[valueOf(t, s, "boiler/valve_fault")] = true
	})
	if len(seen) != 2 {
		t.Error("the bit beside the held one stands still")
	}
}

func TestAWideValueThatOverlapsAnotherIsReadAsTheRegistersStand(t *testing.T) {
	wide := at("wide", modbus.Holding, 10, modbus.Uint32)
	s := build(t, Config{Plant: plantOf(at("low", modbus.Holding, 11, modbus.Int16), wide)})
	eachSecond(s, func(second int) {
		low := numberOf(t, s, "boiler/low")
		if got := uint64(numberOf(t, s, "boiler/wide")) & 0xFFFF; got != uint64(low) {
			t.Fatalf("second %d: low word %d beside %g", second, got, low)
		}
	})
}

func TestWhatMayBeWrittenIsMovedByNobodyElse(t *testing.T) {
	word := with(at("word", modbus.Holding, 5, modbus.Uint16), writable)
	fault := with(at("fault", modbus.Holding, 5, modbus.Bool), bit(2))
	s := build(t, Config{Plant: plantOf(fault, at("wide", modbus.Holding, 4, modbus.Int32), word)})
	ask(t, s, "06 0005 1234")
	eachSecond(s, func(second int) {
		if got := numberOf(t, s, "boiler/word"); got != 0x1234 {
			t.Fatalf("second %d: the written word became %#x", second, int(got))
		}
		if valueOf(t, s, "boiler/fault") != gateway.BoolValue(true) {
			t.Fatalf("second %d: bit 2 of 0x1234 is off", second)
		}
	})
}

func TestAReadOfTheEndOfAValueSeesItMoveToo(t *testing.T) {
	wide := with(at("wide", modbus.Holding, 10, modbus.Uint64), func(p *modbus.Point) { p.Order = "abcd" })
	s := build(t, Config{Plant: plantOf(wide)})
	seen := make(map[string]bool)
	for second := range 100 {
		s.now = func() time.Time { return time.Unix(noon+int64(second), 0) }
		seen[ask(t, s, "03 000D 0001")] = true
	}
	if len(seen) < 3 {
		t.Errorf("the last register of a counter showed %v", seen)
	}
}

func TestDevicesBehindOneUnitShareItsRegisters(t *testing.T) {
	word := with(at("word", modbus.Holding, 7, modbus.Uint16), func(p *modbus.Point) { p.ID = "other/word" })
	plant := plantOf(with(at("flag", modbus.Holding, 7, modbus.Bool), bit(9)))
	plant.Links[0].Devices = append(plant.Links[0].Devices, modbus.Device{Name: "other", Unit: 1, Points: []modbus.Point{word}})
	s := build(t, Config{Plant: plant})
	set(t, s, "other/word", gateway.UintValue(0x0200))
	if on, err := s.Bit("boiler/flag"); err != nil || !on {
		t.Errorf("bit 9 of the other device's word: %v (%v)", on, err)
	}
}
