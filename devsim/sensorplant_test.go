package devsim

import (
	"testing"
	"time"

	"github.com/rs/zerolog"

	gateway "iothub-gateway"
	"iothub-gateway/adapters/coap"
	"iothub-gateway/mapping"
)

const (
	secureListener = "field"
	plainListener  = "vlan4"
)

// sensePoint makes a point without scaling.
func sensePoint(id string, source coap.Source, key string) coap.Point {
	return coap.Point{ID: gateway.PointID(id), Source: source, Key: key}
}

// scaledPoint makes a point with a rule.
func scaledPoint(p coap.Point, scale, offset float64) coap.Point {
	p.Scale, p.Offset = scale, offset
	return p
}

// fieldPlant has a device in each format: one on a DTLS listener, the others on a plain one.
func fieldPlant() *mapping.Plant {
	env := coap.Device{
		Name: "env-17", PSK: "env-17", Path: "/v1/t", ExpectEvery: 5 * time.Minute,
		Points: []coap.Point{
			sensePoint("env-17/temperature", coap.FromSenML, "temp"),
			sensePoint("env-17/humidity", coap.FromSenML, "hum"),
			sensePoint("env-17/battery", coap.FromSenML, "batt"),
			scaledPoint(sensePoint("env-17/pressure", coap.FromSenML, "p"), 0.01, 300),
			sensePoint("env-17/front_door", coap.FromSenML, "door"),
		},
	}
	node := coap.Device{
		Name: "node", Path: "/cbor", Assume: coap.SenMLCBOR,
		Points: []coap.Point{
			sensePoint("node/temp", coap.FromSenML, "temp"),
			sensePoint("node/count", coap.FromSenML, "count"),
			sensePoint("node/alarm", coap.FromSenML, "alarm"),
			sensePoint("node/level", coap.FromJSON, "/level"),
		},
	}
	tank := coap.Device{
		Name: "tank", Path: "/a//b/", ExpectEvery: time.Second,
		Points: []coap.Point{
			scaledPoint(sensePoint("tank/level", coap.FromJSON, "/state/level"), 0.1, 0),
			sensePoint("tank/raw", coap.FromJSON, "/state/level"),
			sensePoint("tank/odd", coap.FromJSON, "/state/a~1b~0c"),
			sensePoint("tank/state", coap.FromJSON, "/state"),
			sensePoint("tank/label", coap.FromJSON, "/label"),
		},
	}
	probe := coap.Device{Name: "probe", Path: "/", Points: []coap.Point{sensePoint("probe/lux", coap.FromBody, "")}}
	return &mapping.Plant{
		Points: []gateway.Point{
			{ID: "env-17/temperature", Unit: "Cel", Range: &gateway.Range{Min: -40, Max: 85}},
			{ID: "env-17/humidity", Unit: "%RH"},
			{ID: "env-17/battery", Unit: "V"},
			{ID: "env-17/pressure", Unit: "hPa"},
			{ID: "node/count", Unit: "m3"},
			{ID: "tank/level", Unit: "m"},
			{ID: "probe/lux", Unit: "lx"},
		},
		Listeners: []mapping.Listener{
			{Config: coap.Config{Name: secureListener, Devices: []coap.Device{env}}},
			{Config: coap.Config{Name: plainListener, Plain: true, Devices: []coap.Device{node, tank, probe}}},
		},
	}
}

// only leaves one device of a plant.
func only(plant *mapping.Plant, device string) *mapping.Plant {
	for i, l := range plant.Listeners {
		kept := []coap.Device{}
		for _, d := range l.Devices {
			if d.Name == device {
				kept = append(kept, d)
			}
		}
		plant.Listeners[i].Devices = kept
	}
	return plant
}

// still makes sensors whose clock stands at noon and that have nowhere to report to.
func still(plant *mapping.Plant) *Sensors {
	s := NewSensors(SensorConfig{
		Plant: plant, Seed: 4, Addr: func(string) string { return "" }, Key: keyOf, Log: zerolog.Nop(),
	})
	s.now = func() time.Time { return time.Unix(noon, 0) }
	for _, p := range s.points {
		if p.place != nil {
			p.place.sent = p.place.read(tickOf(s.now()))
		}
	}
	return s
}

// at makes sensors that report to one address.
func sensorsAt(plant *mapping.Plant, addr string) *Sensors {
	return NewSensors(SensorConfig{
		Plant: plant, Seed: 4, Addr: func(string) string { return addr }, Key: keyOf, Log: zerolog.Nop(),
	})
}

// sensed is what a point stands at.
func sensedValue(t testing.TB, s *Sensors, point gateway.PointID) gateway.Value {
	t.Helper()
	v, err := s.Value(point)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func hold(t testing.TB, s *Sensors, point gateway.PointID, v gateway.Value) {
	t.Helper()
	if err := s.Set(point, v); err != nil {
		t.Fatal(err)
	}
}
