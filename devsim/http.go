package devsim

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"

	gateway "iothub-gateway"
	"iothub-gateway/adapters/modbus"
)

// maxBody bounds the body of a request to Handler.
const maxBody = 64 << 10

// DeviceState is one simulated device in the answer to GET /devices.
type DeviceState struct {
	Name      string       `json:"name"`
	Link      string       `json:"link"`
	Address   string       `json:"address"` // host:port that its link listens on, or the path of its serial port
	Unit      uint8        `json:"unit"`
	Mute      bool         `json:"mute"`
	Exception byte         `json:"exception"` // 0: none
	Delay     string       `json:"delay"`     // as time.Duration writes it
	Points    []PointState `json:"points"`
}

// PointState is one point in the answers of Handler.
type PointState struct {
	ID       gateway.PointID `json:"id"`
	Table    string          `json:"table"`
	Register uint16          `json:"register"`      // protocol address, 0-based
	Bit      *int            `json:"bit,omitempty"` // of a register, 0 the least significant
	Value    gateway.Value   `json:"value"`         // null: the device has no value
	Unit     string          `json:"unit,omitempty"`
	Writable bool            `json:"writable"`
}

// dialChange is the body of a POST to a unit; what is left out stays as it is.
type dialChange struct {
	Mute      *bool   `json:"mute"`
	Exception *byte   `json:"exception"`
	Delay     *string `json:"delay"`
}

// Handler serves the values and the dials as JSON:
//
//	GET  /devices                     every device with its dials and values: []DeviceState
//	GET  /points/{device}/{point}     one PointState
//	PUT  /points/{device}/{point}     {"value": 21.5} holds it; null is "not available"; answers PointState
//	POST /links/{link}/units/{unit}   {"mute": true, "exception": 2, "delay": "200ms"}, each of them optional
//	POST /links/{link}/drop           closes the connections of the link; a serial line is plugged in anew
//	PUT  /faults                      a fault script, see ReadScript, for the links that it names
//	GET  /tls/{ca,client}.pem         the authority that signs the devices, and a certificate with its key that
//	                                  they accept, of a plant that has links with TLS
//
// It answers 404 for what the mapping does not have and 400 for a value that is not possible, both
// with {"error": "..."}. It asks nobody who they are: serve it where only the tester can reach it.
func (s *Sim) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /devices", func(w http.ResponseWriter, _ *http.Request) {
		reply(w, http.StatusOK, s.devices())
	})
	mux.HandleFunc("GET /points/{device}/{point}", s.getPoint)
	mux.HandleFunc("PUT /points/{device}/{point}", s.putPoint)
	mux.HandleFunc("POST /links/{link}/units/{unit}", s.postUnit)
	mux.HandleFunc("POST /links/{link}/drop", s.postDrop)
	mux.HandleFunc("PUT /faults", s.putFaults)
	mux.HandleFunc("GET /tls/{file}", s.getPapers)
	return mux
}

// devices lists the plant in the order of the links of the mapping.
func (s *Sim) devices() []DeviceState {
	states := []DeviceState{}
	for _, c := range s.plant.Links {
		l := s.links[c.Name]
		for _, d := range c.Devices {
			turned := l.dial(d.Unit)
			state := DeviceState{
				Name: d.Name, Link: c.Name, Address: l.listener.Addr().String(), Unit: d.Unit,
				Mute: turned.mute, Exception: turned.exception, Delay: turned.delay.String(),
				Points: make([]PointState, 0, len(d.Points)),
			}
			for _, at := range d.Points {
				state.Points = append(state.Points, s.pointState(s.points[at.ID]))
			}
			states = append(states, state)
		}
	}
	return states
}

func (s *Sim) pointState(p *point) PointState {
	state := PointState{
		ID: p.at.ID, Table: p.at.Table.String(), Register: p.at.Address, Unit: p.north.Unit, Writable: p.at.Writable,
	}
	if !p.at.Table.Bits() && p.at.Bit != modbus.WholeRegister {
		state.Bit = &p.at.Bit
	}
	// The only error is "not available", which is what the absent value stands for.
	state.Value, _ = p.value(p.unit.words(p, tickOf(s.now())))
	return state
}

func pointID(r *http.Request) gateway.PointID {
	return gateway.PointID(r.PathValue("device") + "/" + r.PathValue("point"))
}

func (s *Sim) getPoint(w http.ResponseWriter, r *http.Request) {
	p, err := s.find(pointID(r))
	if err != nil {
		fail(w, err)
		return
	}
	reply(w, http.StatusOK, s.pointState(p))
}

func (s *Sim) putPoint(w http.ResponseWriter, r *http.Request) {
	p, err := s.find(pointID(r))
	if err != nil {
		fail(w, err)
		return
	}
	var body struct {
		Value json.RawMessage `json:"value"`
	}
	if err := decode(w, r, &body); err != nil {
		fail(w, err)
		return
	}
	v, err := parseValue(body.Value)
	if err == nil {
		err = s.Set(p.at.ID, v)
	}
	if err != nil {
		fail(w, err)
		return
	}
	reply(w, http.StatusOK, s.pointState(p))
}

// parseValue also reads null, which is the absent value, and objects, which are flags.
func parseValue(data json.RawMessage) (gateway.Value, error) {
	switch {
	case data == nil:
		return gateway.Value{}, errors.New(`the body needs a "value"`)
	case bytes.Equal(data, []byte("null")):
		return gateway.Value{}, nil
	case data[0] == '{':
		return gateway.ObjectValue(string(data)), nil
	}
	return gateway.ParseValue(data)
}

func (s *Sim) postUnit(w http.ResponseWriter, r *http.Request) {
	l, err := s.findLink(r)
	if err != nil {
		fail(w, err)
		return
	}
	unit, err := strconv.ParseUint(r.PathValue("unit"), 10, 8)
	if err != nil {
		fail(w, fmt.Errorf("unit %q: a unit is a number from 0 to 255", r.PathValue("unit")))
		return
	}
	var change dialChange
	if err := decode(w, r, &change); err != nil {
		fail(w, err)
		return
	}
	var delay time.Duration
	if change.Delay != nil {
		if delay, err = time.ParseDuration(*change.Delay); err != nil || delay < 0 {
			fail(w, fmt.Errorf("delay %q: need a duration such as 200ms", *change.Delay))
			return
		}
	}
	l.turn(uint8(unit), func(d *dial) {
		if change.Mute != nil {
			d.mute = *change.Mute
		}
		if change.Exception != nil {
			d.exception = *change.Exception
		}
		if change.Delay != nil {
			d.delay = delay
		}
	})
	w.WriteHeader(http.StatusNoContent)
}

func (s *Sim) postDrop(w http.ResponseWriter, r *http.Request) {
	l, err := s.findLink(r)
	if err != nil {
		fail(w, err)
		return
	}
	s.Drop(l.name)
	w.WriteHeader(http.StatusNoContent)
}

func (s *Sim) putFaults(w http.ResponseWriter, r *http.Request) {
	script, err := ReadScript(http.MaxBytesReader(w, r.Body, maxBody))
	if err == nil {
		err = s.Play(script)
	}
	if err != nil {
		fail(w, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func (s *Sim) getPapers(w http.ResponseWriter, r *http.Request) {
	papers, file := s.Papers(), r.PathValue("file")
	texts := map[string][]byte{"ca.pem": papers.CA, "client.pem": slices.Concat(papers.Certificate, papers.Key)}
	if texts[file] == nil {
		fail(w, errNoPapers)
		return
	}
	w.Header().Set("Content-Type", "application/x-pem-file")
	_, _ = w.Write(texts[file]) // as in reply
}

var errNoLink = errors.New("the mapping has no such link")

func (s *Sim) findLink(r *http.Request) (*link, error) {
	name := r.PathValue("link")
	if l := s.links[name]; l != nil {
		return l, nil
	}
	return nil, fmt.Errorf("devsim: %q: %w", name, errNoLink)
}

func decode(w http.ResponseWriter, r *http.Request, into any) error {
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return fmt.Errorf("the body: %w", err)
	}
	return nil
}

func fail(w http.ResponseWriter, err error) {
	status := http.StatusBadRequest
	if errors.Is(err, gateway.ErrUnknownPoint) || errors.Is(err, errNoLink) || errors.Is(err, errNoPapers) || errors.Is(err, errNoSensor) {
		status = http.StatusNotFound
	}
	reply(w, status, map[string]string{"error": err.Error()})
}

func reply(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	// An error here is the client's connection that has gone; there is nobody to tell.
	_ = json.NewEncoder(w).Encode(body)
}
