package hubsim_test

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/mochi-mqtt/server/v2/packets"
	"go.etcd.io/bbolt"

	"iothub-gateway/hubsim"
)

func TestHubsInOneProcessHaveNothingInCommon(t *testing.T) {
	hubs := []*testHub{startHub(t, hubConfig()), startHub(t, hubConfig()), startHub(t, hubsim.Config{HostName: hubConfig().HostName, Dir: t.TempDir()})}
	var all sync.WaitGroup
	for i, hub := range hubs {
		client := hub.paho(t, "dev1")
		all.Go(func() {
			for range 10 * (i + 1) {
				client.Publish(dev1Events, 1, false, fmt.Sprint(i)).Wait()
			}
		})
	}
	all.Wait()
	for i, hub := range hubs {
		for _, m := range hub.Messages(0, 0) {
			if string(m.Body) != fmt.Sprint(i) {
				t.Errorf("hub %d has a message of hub %s", i, m.Body)
			}
		}
		if got := hub.Received(); got != uint64(10*(i+1)) {
			t.Errorf("hub %d has %d messages", i, got)
		}
	}
	stranger := hubs[0].pahoOptions(t, "dev1") // a token of another hub's key
	stranger.Servers = nil
	stranger.AddBroker("ssl://" + hubs[1].MQTTAddr())
	stranger.TLSConfig.RootCAs = hubs[1].CAPool()
	if err := mqttConnect(stranger); err == nil || !strings.Contains(err.Error(), "ot Authorized") {
		t.Errorf("a client of another hub: %v", err)
	}
	stranger.TLSConfig.RootCAs = hubs[0].CAPool()
	if err := mqttConnect(stranger); err == nil {
		t.Error("a client trusts a hub whose authority it does not know")
	}
}

func TestAStoppedHubHasLetGoOfEverything(t *testing.T) {
	hub := startHub(t, hubConfig())
	clients := []*rawClient{hub.raw(t), hub.rawConnected(t, "dev1", true), hub.rawConnected(t, "dev2", true)}
	clients[2].publish("devices/dev2/messages/events/", 1, 1, "x")
	clients[2].expectPuback(1)
	hub.stop()
	for _, c := range clients {
		c.expectClosed()
	}
	for _, address := range []string{hub.MQTTAddr(), hub.HTTPSAddr()} {
		l, err := net.Listen("tcp", address)
		if err != nil {
			t.Errorf("%s is still taken: %v", address, err)
			continue
		}
		_ = l.Close()
	}
	if len(hub.Messages(0, 1)) != 1 || len(hub.Messages(1, 0)) != 0 || hub.Connected("dev2") {
		t.Error("the messages are gone, or a device is still connected")
	}
	if err := hub.Run(t.Context()); err == nil {
		t.Error("a hub ran twice")
	}
}

func TestMessagesOnDiskCanBeReadWhenTheHubIsDown(t *testing.T) {
	cfg := hubConfig()
	cfg.Dir = t.TempDir()
	hub := startHub(t, cfg)
	c := hub.rawConnected(t, "dev1", true)
	c.publish(dev1Events, 1, 1, "x")
	c.expectPuback(1)
	hub.stop()
	if got := hub.Messages(0, 0); len(got) != 1 || string(got[0].Body) != "x" {
		t.Errorf("%+v", got)
	}
}

func TestAnAddressInUseIsNamed(t *testing.T) {
	hub := startHub(t, hubConfig())
	for _, cfg := range []hubsim.Config{{MQTT: hub.MQTTAddr()}, {HTTPS: hub.HTTPSAddr()}, {MQTT: "nowhere"}} {
		if _, err := hubsim.New(cfg); err == nil || !strings.Contains(err.Error(), cfg.MQTT+cfg.HTTPS) {
			t.Errorf("%+v: %v", cfg, err)
		}
	}
}

func TestAHubThatIsToldToStopBeforeItStartsStops(t *testing.T) {
	hub, err := hubsim.New(hubConfig())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := hub.Run(ctx); err != nil {
		t.Error(err)
	}
}

func TestAHubThatCannotStoreStopsWithTheReason(t *testing.T) {
	cfg := hubConfig()
	cfg.Dir = t.TempDir() + "/state"
	hub, err := hubsim.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- hub.Run(context.Background()) }()
	h := &testHub{Hub: hub, name: cfg.HostName}
	c := h.rawConnected(t, "dev1", true)
	removeAll(t, cfg.Dir)
	c.publish(dev1Events, 1, 1, "x")
	c.expectClosed() // and no PUBACK
	if err := <-done; err == nil || !strings.Contains(err.Error(), "storing messages") {
		t.Errorf("Run: %v", err)
	}
}

func TestManyClientsOfOneIdLeaveOneStanding(t *testing.T) {
	hub := startHub(t, hubConfig())
	packet := wire(hub.connectPacket(t, "dev1", true))
	clients := make([]*rawClient, 20)
	for i := range clients {
		clients[i] = hub.raw(t)
	}
	for _, c := range clients {
		c.send(packet)
	}
	var admitted []*rawClient
	for _, c := range clients { // a client may lose its connection before its CONNACK
		if p, err := c.next(); err == nil && p.FixedHeader.Type == packets.Connack && p.ReasonCode == 0 {
			admitted = append(admitted, c)
		}
	}
	standing := 0
	for _, c := range admitted {
		if _, err := c.conn.Write([]byte{0xc0, 0}); err != nil {
			continue
		}
		if p, err := c.next(); err == nil && p.FixedHeader.Type == packets.Pingresp {
			standing++
		}
	}
	if standing != 1 || !hub.Connected("dev1") {
		t.Errorf("%d connections of one id", standing)
	}
}

type storedPolicy struct{ KeyName, PrimaryKey, SecondaryKey string }

// storedPolicies reads the policies of a hub that is down.
func storedPolicies(t *testing.T, dir string) (all []storedPolicy) {
	t.Helper()
	db, err := bbolt.Open(dir+"/state.db", 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	err = db.View(func(tx *bbolt.Tx) error {
		return tx.Bucket([]byte("policy")).ForEach(func(_, text []byte) error {
			all = append(all, storedPolicy{})
			return json.Unmarshal(text, &all[len(all)-1])
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestPoliciesGrantWhatTheirNamesSay(t *testing.T) {
	cfg := hubConfig()
	cfg.Dir = t.TempDir()
	hub := startHub(t, cfg)
	hub.stop()
	policies := storedPolicies(t, cfg.Dir)
	hub = startHub(t, cfg)
	service := hub.rest(t)
	got := map[string][3]int{} // reading messages, registering, connecting a device
	for _, p := range policies {
		service.token = sign(hub.name, p.SecondaryKey, time.Now().Add(time.Hour), p.KeyName)
		read, _, _ := service.do("GET", "/hubsim/messages", "")
		register, _, _ := service.do("PUT", "/hubsim/devices/new", "")
		connack := hub.connackOf(t, setToken(hub.name+"/devices", p.PrimaryKey, time.Now().Add(time.Hour), p.KeyName))
		got[p.KeyName] = [3]int{read, register, connack}
	}
	want := map[string][3]int{
		"iothubowner": {200, 200, 0}, "service": {200, 401, 5}, "device": {401, 401, 0},
		"registryRead": {401, 401, 5}, "registryReadWrite": {401, 200, 5},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("policies (-want +got):\n%s", diff)
	}
}

// A name that is an address is not sent as SNI: that is not required (CON-13).
func TestTLSIsAtLeastOneTwoAndTheCertificateHasEveryName(t *testing.T) {
	hub := startHub(t, hubConfig())
	for _, address := range []string{hub.MQTTAddr(), hub.HTTPSAddr()} {
		for _, name := range []string{"localhost", "127.0.0.1", "::1", hub.name, "global.azure-devices-provisioning.net"} {
			for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
				conn, err := tls.Dial("tcp", address, &tls.Config{RootCAs: hub.CAPool(), ServerName: name, MinVersion: version, MaxVersion: version})
				if err != nil {
					t.Errorf("TLS %x to %s as %s: %v", version, address, name, err)
					continue
				}
				_ = conn.Close()
			}
		}
		conn, err := tls.Dial("tcp", address, &tls.Config{RootCAs: hub.CAPool(), ServerName: "localhost", MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11})
		if err == nil {
			_ = conn.Close()
			t.Errorf("TLS 1.1 to %s was let in", address)
		}
	}
}

func TestDevicesRegisteredAtTheSameTimeAreAllThereAfterARestart(t *testing.T) {
	cfg := hubConfig()
	cfg.Dir = t.TempDir()
	hub := startHub(t, cfg)
	keys := make([]string, 50)
	var all sync.WaitGroup
	for i := range keys {
		all.Go(func() {
			key, err := hub.Register("gateway", fmt.Sprintf("m%d", i))
			if err != nil {
				t.Error(err)
			}
			keys[i] = key
		})
	}
	all.Wait()
	hub.stop()
	again := startHub(t, cfg)
	if again.ServiceConnectionString() != hub.ServiceConnectionString() {
		t.Error("the policies have other keys")
	}
	for i, key := range keys {
		if got, err := again.Register("gateway", fmt.Sprintf("m%d", i)); err != nil || got != key {
			t.Errorf("m%d has another key (%v)", i, err)
		}
	}
}
