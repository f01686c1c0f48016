package e2e

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"iothub-gateway/hubsim"
	"iothub-gateway/internal/testkit"
)

// offline is a gateway and a simulator that have nothing in common but a mapping.
type offline struct {
	*plant
	simulator *process
	service   *hubProcess
}

// startOffline starts a simulator with a mapping of the given hub section, in which PORT is that of MQTT,
// and of the given devices section.
func startOffline(t *testing.T, plc *plc, hub, devices string, args ...string) offline {
	t.Helper()
	probe, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := strings.Cut(probe.Addr().String(), ":")
	probe.Close()
	o := offline{plant: &plant{t: t, dir: t.TempDir()}}
	t.Setenv("HOME", o.dir)
	t.Setenv("XDG_CACHE_HOME", filepath.Join(o.dir, "cache"))
	o.mapping = o.write("mapping.yaml", "version: 1\nhub: "+strings.ReplaceAll(hub, "PORT", port)+"\nlinks:\n  plc: { tcp: \""+plc.address+"\" }\ndevices:\n"+devices)
	o.simulator = launch(t, append([]string{
		"hubsim", "--mapping", o.mapping, "--dir", filepath.Join(o.dir, "hub"), "--mqtt", "127.0.0.1:" + port, "--https", "127.0.0.1:0",
	}, args...)...)
	o.service = noteOf(t, o.dir)
	return o
}

// arrived waits for messages of every one of these identities.
func (o offline) arrived(identities ...string) {
	o.t.Helper()
	testkit.Within(o.t, 30*time.Second, fmt.Sprintf("messages of %v", identities), func() bool {
		all := o.service.messages()
		return !slices.ContainsFunc(identities, func(want string) bool {
			return !slices.ContainsFunc(all, func(m hubsim.Message) bool { return identityName(m) == want })
		})
	})
}

func identityName(m hubsim.Message) string {
	if m.Module == "" {
		return m.Device
	}
	return m.Device + "/" + m.Module
}

// device is one of the mapping, which proves itself by proof.
func (p *plc) device(name string, unit int, proof string) string {
	return fmt.Sprintf("  %s: { identity: { %s }, modbus: { link: plc, unit: %d, addressing: zero }, poll: 200ms, points: { n: { at: holding 0, type: uint16, publish: { on: poll } } } }\n", name, proof, unit)
}

// A plant that is provisioned by a group's key, by a key of its own and by a certificate is tried without a cloud.
func TestAProvisionedPlantRunsOffline(t *testing.T) {
	plc := startPLC(t)
	hub := `{ trust: "file:hub/ca.pem", provisioning: { scope: 0ne00A1B2C3, host: "localhost:PORT", group_key: "file:keys/group" } }`
	o := startOffline(t, plc, hub, plc.device("boiler", 1, "device: boiler")+plc.device("mixer", 2, "device: mixer")+
		plc.device("press", 3, `device: press, provisioning: { id: sn-7, key: "file:keys/press" }`))
	for _, key := range []string{"group", "press"} {
		if _, err := os.Stat(filepath.Join(o.dir, "keys", key)); err != nil {
			t.Errorf("the simulator did not leave a key: %v", err)
		}
	}
	o.start()
	o.arrived("boiler", "mixer", "press")
	stdout, stderr, code := gatewayCommand(t, o.dir, "hub", "devices", "list")
	if code != 0 || !strings.Contains(stdout, "press") {
		t.Errorf("exit code %d\n%s%s", code, stdout, stderr)
	}
}

var printedVariable = regexp.MustCompile(`(?m)^(IOTEDGE_[A-Z]+)=(.*)$`)

// The gateway as a module of IoT Edge is tried without IoT Edge.
func TestTheGatewayIsAModuleOfTheSimulatedEdge(t *testing.T) {
	plc := startPLC(t)
	socket := filepath.Join(t.TempDir(), "workload.sock")
	o := startOffline(t, plc, "{ edge: auto }", plc.device("boiler", 1, "device: edge1, module: gateway"), "--workload-socket", socket)
	testkit.Within(t, 20*time.Second, "it prints the environment of the module", func() bool {
		return len(printedVariable.FindAllString(o.simulator.String(), -1)) == 8
	})
	for _, v := range printedVariable.FindAllStringSubmatch(o.simulator.String(), -1) {
		t.Setenv(v[1], v[2])
	}
	o.start()
	o.arrived("edge1/gateway")
}
