package mapping

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	gateway "iothub-gateway"
)

func TestAWriteIsReadBackUnlessTheMappingSaysOtherwise(t *testing.T) {
	act := "\nact: { at: input 9, type: int16, deadband: 0.5 }"
	for text, want := range map[string]gateway.Confirm{
		"min: 0, max: 5":                     {By: "d/x"},
		"min: 0, max: 5, confirm: read-back": {By: "d/x"},
		"min: 0, max: 5, confirm: sent":      {},
		"min: 0, max: 5, confirm: act":       {By: "d/act", Tolerance: gateway.Deadband{Absolute: 0.5}},
	} {
		plant := one(t, "x: { at: holding 5, type: int16, write: { "+text+" } }"+act)
		if got := north(t, plant, "d/x").Write.Confirm; got != want {
			t.Errorf("%s: %+v, want %+v", text, got, want)
		}
	}
	plant := one(t, "x: { at: holding 5, type: int16, enum: { 0: a, 1: b, 2: c }, write: { enum: [c, a], persist: true } }\ny: { at: coil 0, write: { rate: 0.5 } }"+act)
	if x := north(t, plant, "d/x").Write; !cmp.Equal(x.Words, []string{"c", "a"}) {
		t.Errorf("%+v", x)
	}
	if x, y := south(t, plant, "d/x"), south(t, plant, "d/y"); x.WriteRate != 1.0/60 || y.WriteRate != 0.5 {
		t.Errorf("%+v %+v", x, y)
	}
	if y := north(t, plant, "d/y").Write; y.Confirm.By != "d/y" {
		t.Errorf("%+v", y)
	}
}

func TestAMethodAndADesiredPropertySayForThemselvesWhenAWriteIsDone(t *testing.T) {
	act := gateway.Confirm{By: "d/act", Tolerance: gateway.Deadband{Absolute: 0.5}}
	for text, want := range map[string]*gateway.Confirm{
		"": nil, ", confirm: sent": {}, ", confirm: read-back": {By: "d/x"}, ", confirm: act": &act,
	} {
		plant := good(t, `devices:
  d:
    identity: { device: d, sas_key: file:d }
    modbus: { tcp: 10.7.3.11:502, unit: 1, addressing: zero }
    points:
      x: { at: holding 5, type: int16, write: { min: 0, max: 5, confirm: sent } }
      act: { at: input 9, type: int16, deadband: 0.5 }
    methods:
      m: { write: x, from: value`+text+` }
    desired:
      p: { write: x`+text+` }
`)
		if m, p := plant.Methods[0].Confirm, plant.Desired[0].Confirm; !cmp.Equal(m, want) || !cmp.Equal(p, want) {
			t.Errorf("%q: %+v and %+v, want %+v", text, m, p, want)
		}
	}
}

func TestAScaleFactorOfTheDeviceIsFound(t *testing.T) {
	plant := one(t, "x: { at: holding 14, type: int16, scale: 10^sf, unit: W, write: { min: 0, max: 1e9 } }\nsf: { at: holding 20, type: int16, hidden: true }\ny: { at: holding 5, type: string(5), padding: space }")
	if p := south(t, plant, "d/x"); p.Factor == nil || *p.Factor != 20 || p.Scale != 1 {
		t.Errorf("%+v", p)
	}
	if p := south(t, plant, "d/y"); p.Pad != ' ' {
		t.Errorf("%+v", p)
	}
}

func TestTheTwoBytesOfARegisterDoNotOverlap(t *testing.T) {
	points := "a: { at: holding 1, type: uint8h }\nb: { at: holding 1, type: int8l }\nw: { at: holding 1, type: uint16, flags: { 0: a } }"
	if one(t, points) == nil {
		t.Error("refused")
	}
}
