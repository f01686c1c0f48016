package gateway

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"testing"
)

func TestValuesAreWrittenAsJSONAPersonWouldWrite(t *testing.T) {
	for _, c := range []struct {
		v    Value
		want string
	}{
		{Value{}, "null"}, {BoolValue(true), "true"}, {BoolValue(false), "false"},
		{IntValue(-7), "-7"}, {UintValue(math.MaxUint64), "18446744073709551615"},
		{FloatValue(0.3), "0.3"}, {FloatValue(21.7), "21.7"}, {FloatValue(1e20), "100000000000000000000"},
		{FloatValue(1e-9), "1e-09"}, {FloatValue(math.NaN()), "null"}, {FloatValue(math.Inf(-1)), "null"},
		{TextValue("a\"b\n"), `"a\"b\n"`}, {ObjectValue(`{"run":true}`), `{"run":true}`},
	} {
		got := string(c.v.AppendJSON(nil))
		if got != c.want || !json.Valid([]byte(got)) {
			t.Errorf("%#v: %s, want %s", c.v, got, c.want)
		}
	}
}

func TestNumbersKeepTheirIntegers(t *testing.T) {
	for text, want := range map[string]Value{
		"65": IntValue(65), "-3": IntValue(-3), " 18446744073709551615 ": UintValue(math.MaxUint64),
		"65.5": FloatValue(65.5), "1e2": FloatValue(100), "true": BoolValue(true), `"auto"`: TextValue("auto"),
	} {
		got, err := ParseValue([]byte(text))
		if err != nil || got != want {
			t.Errorf("%s: %v %v, want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "null", "[1]", "{}", "nul", "1 2", "NaN"} {
		if _, err := ParseValue([]byte(text)); !errors.Is(err, ErrRange) {
			t.Errorf("%q: %v, want ErrRange", text, err)
		}
	}
}

func TestIntegersConvertOnlyWhereTheyFit(t *testing.T) {
	if _, ok := UintValue(math.MaxUint64).Int(); ok {
		t.Error("a Uint beyond int64 became an Int")
	}
	if _, ok := IntValue(-1).Uint(); ok {
		t.Error("a negative Int became a Uint")
	}
	if n, ok := IntValue(-1).Number(); !ok || n != -1 {
		t.Errorf("Number of -1 is %v", n)
	}
	if _, ok := TextValue("1").Number(); ok {
		t.Error("a Text became a number")
	}
}

func TestARefusalIsErrRefusedAndKeepsItsCode(t *testing.T) {
	err := fmt.Errorf("modbus: x: %w", &Refusal{Protocol: "modbus", Code: "2", Name: "illegal data address"})
	var r *Refusal
	if !errors.Is(err, ErrRefused) || !errors.As(err, &r) || r.Code != "2" || Reason(err) != "device" {
		t.Errorf("%v, reason %q", err, Reason(err))
	}
	for err, want := range map[error]string{nil: "", ErrNotAvailable: "not available", ErrOutOfRange: "out of range", ErrNoAnswer: "comm"} {
		if Reason(err) != want {
			t.Errorf("Reason(%v) = %q, want %q", err, Reason(err), want)
		}
	}
}

func TestAnIdentityHasADeviceAndPerhapsAModule(t *testing.T) {
	if id := IdentityID("d/m"); id.Device() != "d" || id.Module() != "m" {
		t.Errorf("%q: %q %q", id, id.Device(), id.Module())
	}
	if id := IdentityID("d"); id.Device() != "d" || id.Module() != "" {
		t.Errorf("%q: %q %q", id, id.Device(), id.Module())
	}
}
