package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/rs/zerolog"

	gateway "iothub-gateway"
	"iothub-gateway/adapters/modbus"
	"iothub-gateway/bridge"
	"iothub-gateway/internal/control"
	"iothub-gateway/mapping"
)

// The resources of points on the control socket.
const (
	resourceRead  = "/points/read"
	resourceWrite = "/points/write"
)

// pointTimeout bounds a read or write by hand; the control socket answers within 30 s.
const pointTimeout = 25 * time.Second

// pointAccess reads and writes points by hand: in the running gateway, through its control socket, or
// directly.
type pointAccess struct {
	read  func(ctx context.Context, points []string) ([]control.Reading, error)
	write func(context.Context, control.WriteRequest) (control.WriteReply, error)
	close func()
}

// pointsOf reads and writes points of a plant through the adapters that serve them. What may be written, and
// how a write ends, is the same as for a direct method.
func pointsOf(points []gateway.Point, device func(gateway.PointID) bridge.Device) pointAccess {
	byID := make(map[gateway.PointID]gateway.Point, len(points))
	for _, p := range points {
		byID[p.ID] = p
	}
	return pointAccess{
		read: func(ctx context.Context, names []string) ([]control.Reading, error) {
			ctx, cancel := context.WithTimeout(ctx, pointTimeout)
			defer cancel()
			var readings []control.Reading
			for _, name := range names {
				p, ok := byID[gateway.PointID(name)]
				d := device(p.ID)
				if !ok || d == nil {
					return nil, unknownPoint(points, name)
				}
				readings = append(readings, readPoint(ctx, d, p))
			}
			return readings, nil
		},
		write: func(ctx context.Context, r control.WriteRequest) (control.WriteReply, error) {
			ctx, cancel := context.WithTimeout(ctx, pointTimeout)
			defer cancel()
			p, ok := byID[gateway.PointID(r.Point)]
			if !ok {
				return control.WriteReply{}, unknownPoint(points, r.Point)
			}
			if p.Write == nil {
				return control.WriteReply{}, notWritable(r.Point)
			}
			reply := writePoint(ctx, device, p, r.Value)
			return control.WriteReply{Status: reply.Status, Body: reply.Body}, nil
		},
		close: func() {},
	}
}

// unknownPoint says which points there are instead.
func unknownPoint(points []gateway.Point, name string) error {
	device, _, _ := strings.Cut(name, "/")
	var siblings []string
	for _, p := range points {
		if of, own, _ := strings.Cut(string(p.ID), "/"); of == device {
			siblings = append(siblings, own)
		}
	}
	if len(siblings) == 0 {
		return fmt.Errorf("%w %s; points are named DEVICE/POINT, as in the mapping", gateway.ErrUnknownPoint, name)
	}
	return fmt.Errorf("%w %s; %s has %s", gateway.ErrUnknownPoint, name, device, clip(strings.Join(siblings, ", "), 400))
}

func notWritable(name string) error {
	return fmt.Errorf("%s cannot be written: it has no write in the mapping", name)
}

func readPoint(ctx context.Context, d bridge.Device, p gateway.Point) control.Reading {
	r := control.Reading{Point: string(p.ID), Unit: p.Unit, Takes: takes(p), Value: json.RawMessage("null")}
	samples, err := d.Read(ctx, []gateway.PointID{p.ID})
	if err == nil {
		r.Time, err = samples[0].Time, samples[0].Err
	}
	if err != nil {
		r.Error = err.Error()
		return r
	}
	r.Value = samples[0].Value.AppendJSON(nil)
	return r
}

// takes says what may be written to a point, in the words of the mapping; "" if nothing may.
func takes(p gateway.Point) string {
	switch w := p.Write; {
	case w == nil:
		return ""
	case len(w.Words) > 0:
		return strings.Join(w.Words, ", ")
	case w.Min != nil && w.Max != nil:
		return fmt.Sprintf("%v..%v", *w.Min, *w.Max)
	case w.Min != nil:
		return fmt.Sprintf("at least %v", *w.Min)
	case w.Max != nil:
		return fmt.Sprintf("at most %v", *w.Max)
	}
	return "any value"
}

// writePoint writes as a direct method would: the bridge checks the value and words the outcome.
func writePoint(ctx context.Context, device func(gateway.PointID) bridge.Device, p gateway.Point, text string) gateway.Reply {
	const method, field = "write", "value"
	down := bridge.NewDown(bridge.DownConfig{
		Points: []gateway.Point{p}, Device: device, Timeout: pointTimeout,
		Methods: []gateway.Method{{Identity: p.Identity, Name: method, Write: p.ID, From: field}},
	})
	payload := fmt.Appendf(nil, `{%q:%s}`, field, written(p, text))
	return down.Handle(ctx, gateway.Command{Identity: p.Identity, Name: method, Payload: payload})
}

// written is what a person wrote as JSON: a word of the enum, a number, true or false, or else a text.
func written(p gateway.Point, text string) []byte {
	words := p.Write != nil && len(p.Write.Words) > 0
	if _, err := gateway.ParseValue([]byte(text)); err == nil && !words {
		return []byte(text)
	}
	return gateway.TextValue(text).AppendJSON(nil)
}

// points reads and writes points of the running gateway, as the mapping of the moment has them.
func (s *service) points() pointAccess {
	return pointAccess{
		read: func(ctx context.Context, names []string) ([]control.Reading, error) {
			return s.now.Load().points.read(ctx, names)
		},
		write: func(ctx context.Context, r control.WriteRequest) (control.WriteReply, error) {
			return s.now.Load().points.write(ctx, r)
		},
		close: func() {},
	}
}

// servePoints answers for points on the control socket.
func servePoints(mux *http.ServeMux, p pointAccess) {
	mux.HandleFunc("POST "+resourceRead, func(w http.ResponseWriter, r *http.Request) {
		var request control.ReadRequest
		if err := json.NewDecoder(r.Body).Decode(&request); err != nil {
			control.Refuse(w, err)
			return
		}
		readings, err := p.read(r.Context(), request.Points)
		answer(w, readings, err)
	})
	mux.HandleFunc("POST "+resourceWrite, func(w http.ResponseWriter, r *http.Request) {
		var request control.WriteRequest
		if err := json.NewDecoder(r.Body).Decode(&request); err != nil {
			control.Refuse(w, err)
			return
		}
		reply, err := p.write(r.Context(), request)
		answer(w, reply, err)
	})
}

// pointsOver asks a running gateway.
func pointsOver(c *control.Client) pointAccess {
	return pointAccess{
		read: func(ctx context.Context, points []string) (readings []control.Reading, err error) {
			err = c.Post(ctx, resourceRead, control.ReadRequest{Points: points}, &readings)
			return readings, err
		},
		write: func(ctx context.Context, r control.WriteRequest) (reply control.WriteReply, err error) {
			err = c.Post(ctx, resourceWrite, r, &reply)
			return reply, err
		},
		close: func() {},
	}
}

// pointsDirectly goes to the devices of the points itself. Nothing but these points is asked for.
func pointsDirectly(ctx context.Context, path string, names []string) (pointAccess, error) {
	plant, findings, err := loadMapping(path)
	if err != nil {
		return pointAccess{}, err
	}
	if findings.Errors() > 0 {
		return pointAccess{}, fmt.Errorf("%s has %s; see 'gateway check'", path, count(findings.Errors(), "error"))
	}
	if err := errors.Join(reported(plant, names), secureLinks(plant, secretSource(path))); err != nil {
		return pointAccess{}, err
	}
	devices := map[gateway.PointID]bridge.Device{}
	wanted := withConfirming(plant.Points, names)
	run, stop := context.WithCancel(ctx)
	var ended []<-chan error
	for _, link := range plant.Links {
		link.Devices = only(link.Devices, wanted)
		if len(link.Devices) == 0 {
			continue
		}
		adapter := modbus.New(link, nil, zerolog.Nop())
		for _, d := range link.Devices {
			for _, p := range d.Points {
				devices[p.ID] = adapter
			}
		}
		end := make(chan error, 1)
		ended = append(ended, end)
		go func() {
			end <- adapter.Run(run, func(context.Context, []gateway.Sample) error { return nil })
		}()
	}
	access := pointsOf(plant.Points, func(id gateway.PointID) bridge.Device { return devices[id] })
	access.close = func() {
		stop()
		for _, end := range ended {
			<-end
		}
	}
	return access, nil
}

// withConfirming adds the points that confirm writes of the named ones.
func withConfirming(points []gateway.Point, names []string) []string {
	wanted := slices.Clone(names)
	for _, p := range points {
		if p.Write != nil && slices.Contains(names, string(p.ID)) {
			wanted = append(wanted, string(p.Write.Confirm.By))
		}
	}
	return wanted
}

// only leaves of devices the wanted points.
func only(devices []modbus.Device, wanted []string) (some []modbus.Device) {
	for _, d := range devices {
		d.Points = slices.DeleteFunc(slices.Clone(d.Points), func(p modbus.Point) bool { return !slices.Contains(wanted, string(p.ID)) })
		if len(d.Points) > 0 {
			some = append(some, d)
		}
	}
	return some
}

// reported refuses points of devices that report by themselves: nobody can ask for them.
func reported(plant *mapping.Plant, names []string) error {
	for _, l := range plant.Listeners {
		for _, d := range l.Devices {
			for _, p := range d.Points {
				if slices.Contains(names, string(p.ID)) {
					return fmt.Errorf("%s reports by itself; only a running gateway knows its last value", p.ID)
				}
			}
		}
	}
	return nil
}

// access asks the running gateway, or goes to the devices itself if none runs: then it says so, because one that
// runs elsewhere is gone around.
func (o *pointOptions) access(ctx context.Context, io streams, names []string) (pointAccess, error) {
	client := control.NewClient(filepath.Join(o.runtime, control.SocketName))
	err := client.Get(ctx, "/status", nil)
	if errors.Is(err, control.ErrNotRunning) {
		direct, err := pointsDirectly(ctx, o.mapping, names)
		if err == nil {
			fmt.Fprintf(io.err, "no gateway runs in %s (--runtime-dir): the device itself is asked\n", o.runtime)
		}
		return direct, err
	}
	return pointsOver(client), err
}

// shown is a JSON value as a person reads it.
func shown(value json.RawMessage) string {
	var text string
	if json.Unmarshal(value, &text) == nil {
		return text
	}
	if s := strings.TrimSpace(string(value)); s != "null" {
		return s
	}
	return "-"
}
