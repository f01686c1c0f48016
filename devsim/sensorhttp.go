package devsim

import (
	"errors"
	"fmt"
	"net/http"

	gateway "iothub-gateway"
)

// SensorState is one simulated sensor in the answer to GET /sensors.
type SensorState struct {
	Name     string        `json:"name"`
	Listener string        `json:"listener"`
	Format   string        `json:"format"` // text, json, senml+json or senml+cbor
	Period   string        `json:"period"` // as time.Duration writes it
	Mute     bool          `json:"mute"`
	Acked    uint64        `json:"acked"` // reports answered 2.04
	Points   []SensedState `json:"points"`
}

// SensedState is one point of a sensor.
type SensedState struct {
	ID    gateway.PointID `json:"id"`
	Value gateway.Value   `json:"value"` // null: the report has none
	Unit  string          `json:"unit,omitempty"`
}

// Handler serves the sensors as JSON:
//
//	GET  /sensors            every sensor with what it reported last: []SensorState
//	POST /sensors/{device}   {"mute": true} or {"mute": false}
//
// It answers errors, and whom it answers, as the Handler of Sim does.
func (s *Sensors) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /sensors", func(w http.ResponseWriter, _ *http.Request) {
		reply(w, http.StatusOK, s.states())
	})
	mux.HandleFunc("POST /sensors/{device}", s.postSensor)
	return mux
}

func (s *Sensors) states() []SensorState {
	states := make([]SensorState, 0, len(s.sensors))
	for _, o := range s.sensors {
		state := SensorState{
			Name: o.at.Name, Listener: o.listener, Format: o.report.format.String(), Period: o.period.String(),
			Mute: o.mute.Load(), Acked: o.acked.Load(), Points: make([]SensedState, 0, len(o.at.Points)),
		}
		for _, at := range o.at.Points {
			// The only error is "not available", which is what the absent value stands for.
			v, _ := s.Value(at.ID)
			state.Points = append(state.Points, SensedState{ID: at.ID, Value: v, Unit: s.points[at.ID].unit})
		}
		states = append(states, state)
	}
	return states
}

func (s *Sensors) postSensor(w http.ResponseWriter, r *http.Request) {
	device := r.PathValue("device")
	if s.sensor(device) == nil {
		fail(w, fmt.Errorf("devsim: %q: %w", device, errNoSensor))
		return
	}
	var change struct {
		Mute *bool `json:"mute"`
	}
	err := decode(w, r, &change)
	if err == nil && change.Mute == nil {
		err = errors.New(`the body needs a "mute"`)
	}
	if err != nil {
		fail(w, err)
		return
	}
	s.Mute(device, *change.Mute)
	w.WriteHeader(http.StatusNoContent)
}
