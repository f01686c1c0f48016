package hubsim_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"testing"

	paho "github.com/eclipse/paho.mqtt.golang/packets"
	"github.com/mochi-mqtt/server/v2/packets"
	"go.etcd.io/bbolt"

	"iothub-gateway/hubsim"
)

// serveUntilKilled is the other process: a hub with a Dir that prints where it listens.
func serveUntilKilled(dir string) {
	hub, err := hubsim.New(hubsim.Config{HostName: hubConfig().HostName, Dir: dir})
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(map[string]string{"mqtt": hub.MQTTAddr(), "ca": string(hub.CAPEM())})
	}
	if err == nil {
		err = hub.Run(context.Background())
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// killable is a hub in another process.
type killable struct {
	cmd  *exec.Cmd
	MQTT string `json:"mqtt"`
	CA   string `json:"ca"`
}

func startKillable(t *testing.T, dir string) *killable {
	t.Helper()
	k := &killable{cmd: exec.Command(os.Args[0])}
	k.cmd.Env = append(os.Environ(), "HUBSIM_TEST_DIR="+dir)
	k.cmd.Stderr = os.Stderr
	out, err := k.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := k.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.kill)
	line, err := bufio.NewReader(out).ReadBytes('\n')
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(line, k); err != nil {
		t.Fatal(err)
	}
	return k
}

// kill is SIGKILL.
func (k *killable) kill() {
	if k.cmd.ProcessState == nil {
		_ = k.cmd.Process.Kill()
		_ = k.cmd.Wait()
	}
}

// A PUBACK means that the message survives kill -9, as do the devices, their keys and the authority.
func TestWhatWasAcknowledgedSurvivesKill(t *testing.T) {
	dir := t.TempDir()
	cfg := hubsim.Config{HostName: hubConfig().HostName, Dir: dir}
	before, err := hubsim.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	h := &testHub{Hub: before, name: cfg.HostName}
	connect := h.connectPacket(t, "dev1/mod1", true)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := before.Run(ended); err != nil {
		t.Fatal(err)
	}

	acknowledged := 0
	for round := range 3 {
		other := startKillable(t, dir)
		if other.CA != string(before.CAPEM()) {
			t.Fatal("the certificate authority is another one after a restart")
		}
		acknowledged += publishUntilKilled(t, other, before, connect, round)
	}
	after := startHub(t, cfg)
	stored := after.Messages(0, 0)
	if len(stored) < acknowledged {
		t.Fatalf("%d messages were acknowledged, %d are stored", acknowledged, len(stored))
	}
	bodies := map[string]bool{}
	for i, m := range stored {
		if m.Sequence != uint64(i+1) || m.Device != "dev1" || m.Module != "mod1" {
			t.Fatalf("message %d is %+v", i, m)
		}
		bodies[string(m.Body)] = true
	}
	for round := range 3 {
		for i := range 200 {
			if body := fmt.Sprintf("%d-%d", round, i); !bodies[body] {
				t.Fatalf("%s was acknowledged and is not stored", body)
			}
		}
	}
}

// publishUntilKilled kills the hub at the 200th PUBACK of 300 publishes.
func publishUntilKilled(t *testing.T, other *killable, trust *hubsim.Hub, connect *paho.ConnectPacket, round int) int {
	t.Helper()
	c := newRawClient(t, dialTLS(t, other.MQTT, trust))
	c.sendPacket(connect)
	if ack := c.expect(packets.Connack); ack.ReasonCode != 0 {
		t.Fatalf("CONNACK %d", ack.ReasonCode)
	}
	var all strings.Builder
	for i := range 300 {
		p := paho.NewControlPacket(paho.Publish).(*paho.PublishPacket)
		p.TopicName, p.Qos, p.MessageID = "devices/dev1/modules/mod1/messages/events/", 1, uint16(i+1)
		p.Payload = fmt.Appendf(nil, "%d-%d", round, i)
		all.Write(wire(p))
	}
	c.send([]byte(all.String()))
	for i := range 200 {
		c.expectPuback(uint16(i + 1))
	}
	other.kill()
	return 200
}

func TestTwoHubsDoNotShareADirectory(t *testing.T) {
	cfg := hubConfig()
	cfg.Dir = t.TempDir()
	hub := startHub(t, cfg)
	if _, err := hubsim.New(cfg); err == nil || !strings.Contains(err.Error(), "in use by another hub") {
		t.Errorf("a second hub on the directory: %v", err)
	}
	hub.stop()
	again := startHub(t, cfg) // and it is free once the first is down
	again.stop()
}

func TestStateThatCannotBeUsedIsNamed(t *testing.T) {
	for name, spoil := range map[string]func(dir string) error{
		"state.db":  func(dir string) error { return os.WriteFile(dir+"/state.db", []byte("no database"), 0o600) },
		"version 9": func(dir string) error { return setStateVersion(dir, "9") },
		"hub.json":  func(dir string) error { return leaveHubFile(dir, "{") },
		"version 8": func(dir string) error { return leaveHubFile(dir, `{"version":8}`) },
		"ca.key":    func(dir string) error { return os.Remove(dir + "/ca.key") },
		"ca.pem":    func(dir string) error { return os.WriteFile(dir+"/ca.pem", []byte("no certificate"), 0o600) },
	} {
		cfg := hubConfig()
		cfg.Dir = t.TempDir()
		startHub(t, cfg).stop()
		if err := spoil(cfg.Dir); err != nil {
			t.Fatal(err)
		}
		if _, err := hubsim.New(cfg); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: New says %v", name, err)
		}
	}
}

func setStateVersion(dir, version string) error {
	db, err := bbolt.Open(dir+"/state.db", 0o600, nil)
	if err != nil {
		return err
	}
	return errors.Join(db.Update(func(tx *bbolt.Tx) error {
		return tx.Bucket([]byte("file")).Put([]byte("version"), []byte(version))
	}), db.Close())
}

// leaveHubFile puts a hub.json where there is no state.db.
func leaveHubFile(dir, text string) error {
	return errors.Join(os.Remove(dir+"/state.db"), os.WriteFile(dir+"/hub.json", []byte(text), 0o600))
}

// A former version kept its devices in hub.json.
func TestDevicesOfAFormerVersionAreTakenOver(t *testing.T) {
	cfg := hubConfig()
	cfg.Dir = t.TempDir()
	startHub(t, cfg).stop()
	if err := leaveHubFile(cfg.Dir, `{"version":1,
		"policies":[{"keyName":"iothubowner","primaryKey":"b3duZXI=","secondaryKey":"c2Vjb25k","rights":["RegistryRead"]}],
		"identities":[{"deviceId":"dev1","generationId":"17","primaryKey":"`+knownKey+`","secondaryKey":"`+knownKey+`"}]}`); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time without hub.json
		hub := startHub(t, cfg)
		if key, err := hub.Register("dev1", ""); err != nil || key != knownKey {
			t.Errorf("dev1 has another key (%v)", err)
		}
		if ownerKey(hub) != "b3duZXI=" {
			t.Error("the policy has another key")
		}
		hub.stop()
		if _, err := os.Stat(cfg.Dir + "/hub.json"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("hub.json is still there (%v)", err)
		}
	}
}

func TestKeysAreNotForOthersToRead(t *testing.T) {
	cfg := hubConfig()
	cfg.Dir = t.TempDir()
	startHub(t, cfg).stop()
	for _, name := range []string{"state.db", "ca.key"} {
		info, err := os.Stat(cfg.Dir + "/" + name)
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v (%v), want 0600", name, info.Mode(), err)
		}
	}
}
