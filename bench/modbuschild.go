package main

import (
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/rs/zerolog"

	"iothub-gateway/adapters/modbus"
	"iothub-gateway/devsim"
	"iothub-gateway/mapping"
)

// devicesRole is the child that simulates the devices of a plant.
const devicesRole = "devices"

// devicesPlan is what it is told, devicesPlace what it answers: where each of them listens.
type (
	devicesPlan struct {
		Devices, Points int
		Period          time.Duration
	}
	devicesPlace struct{ Addresses []string }
)

// plant is so many devices, each behind a TCP address of its own and called as its link.
func (p devicesPlan) plant() *mapping.Plant {
	plant := &mapping.Plant{}
	for i := range p.Devices {
		plant.Links = append(plant.Links, modbus.Config{
			Name: deviceName(i), Timeout: time.Second, Devices: []modbus.Device{modbusDevice(deviceName(i), 1, p.Points, p.Period)},
		})
	}
	return northbound(plant)
}

// serveDevices simulates a plant until its input ends.
func serveDevices(in io.Reader, out io.Writer) error {
	var plan devicesPlan
	input := json.NewDecoder(in)
	if err := input.Decode(&plan); err != nil {
		return err
	}
	sim, err := devsim.New(devsim.Config{Plant: plan.plant(), Seed: 1, Log: zerolog.Nop()})
	if err != nil {
		return err
	}
	stop := background(sim.Run)
	var place devicesPlace
	for i := range plan.Devices {
		place.Addresses = append(place.Addresses, sim.Addr(deviceName(i)))
	}
	if err := json.NewEncoder(out).Encode(place); err != nil {
		return err
	}
	if err := input.Decode(&plan); err != io.EOF {
		return fmt.Errorf("the devices are told once: %w", err)
	}
	return stop()
}
