package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"iothub-gateway/hubsim"
	"iothub-gateway/internal/control"
	"iothub-gateway/internal/testkit"
)

// startHub runs a hub simulator in this process until the test ends.
func startHub(t *testing.T) *hubsim.Hub {
	t.Helper()
	return startHubAs(t, hubsim.Config{})
}

func startHubAs(t *testing.T, cfg hubsim.Config) *hubsim.Hub {
	t.Helper()
	hub, err := hubsim.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	testkit.Background(t, hub.Run)
	return hub
}

// plant is a directory with a mapping, its keys and the gateway's state.
type plant struct {
	t       *testing.T
	dir     string
	mapping string
	hub     *hubsim.Hub
}

// newPlant writes a mapping of one PLC at address with the given devices section, whose identities'
// keys are file:keys/DEVICE, and registers the identities at hub.
func newPlant(t *testing.T, hub *hubsim.Hub, devices string, identities ...string) *plant {
	t.Helper()
	p := &plant{t: t, dir: t.TempDir(), hub: hub}
	_, port, _ := strings.Cut(hub.MQTTAddr(), ":")
	p.write("ca.pem", string(hub.CAPEM()))
	for _, id := range identities {
		device, module, _ := strings.Cut(id, "/")
		key, err := hub.Register(device, module)
		if err != nil {
			t.Fatal(err)
		}
		p.write(filepath.Join("keys", strings.ReplaceAll(id, "/", "-")), key)
	}
	p.mapping = p.write("mapping.yaml", "version: 1\nhub:\n  host: localhost:"+port+"\n  trust: file:ca.pem\n"+devices)
	return p
}

func (p *plant) write(name, text string) string {
	p.t.Helper()
	path := filepath.Join(p.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		p.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		p.t.Fatal(err)
	}
	return path
}

func (p *plant) state() string   { return filepath.Join(p.dir, "state") }
func (p *plant) runtime() string { return filepath.Join(p.dir, "run") }

// status asks the running gateway.
func (p *plant) status() (control.Status, error) {
	var page control.Status
	err := control.NewClient(filepath.Join(p.runtime(), control.SocketName)).Get(p.t.Context(), "/status", &page)
	return page, err
}

// process is the gateway's binary while it runs.
type process struct {
	t    *testing.T
	cmd  *exec.Cmd
	done chan struct{}

	testkit.Log
	waited error // read after done
}

// start runs `gateway run` on the plant.
func (p *plant) start() *process {
	p.t.Helper()
	return launch(p.t, "run", p.mapping, "--state-dir", p.state(), "--runtime-dir", p.runtime(), "--health", "off")
}

// launch runs the binary until somebody ends it, at the latest the end of the test.
func launch(t *testing.T, args ...string) *process {
	t.Helper()
	r := &process{t: t, done: make(chan struct{})}
	r.cmd = exec.Command(binary, args...)
	r.cmd.Stdout, r.cmd.Stderr = r, r
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		r.waited = r.cmd.Wait()
		close(r.done)
	}()
	t.Cleanup(func() {
		_ = r.cmd.Process.Kill()
		<-r.done
		if t.Failed() {
			t.Logf("gateway %s said:\n%s", args[0], r.String())
		}
	})
	return r
}

// kill ends the process as a power cut of the process would.
func (p *process) kill() {
	p.t.Helper()
	if err := p.cmd.Process.Kill(); err != nil {
		p.t.Fatalf("it had ended by itself: %v\n%s", err, p.String())
	}
	<-p.done
}

// stop asks the process to end and wants exit code 0.
func (p *process) stop() {
	p.t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		p.t.Fatal(err)
	}
	select {
	case <-p.done:
	case <-time.After(20 * time.Second):
		p.t.Fatalf("still running 20 s after SIGTERM\n%s", p.String())
	}
	if p.waited != nil {
		p.t.Fatalf("after SIGTERM: %v\n%s", p.waited, p.String())
	}
}

// gatewayCommand runs a short command of the gateway and returns its output and exit code.
func gatewayCommand(t *testing.T, dir string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	return command(t, dir, binary, args...)
}

// command runs a program to its end, a minute at most.
func command(t *testing.T, dir, program string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir = dir
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("%s %v: %v\n%s", program, args, err, errs.String())
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// field reads one field of a JSON body.
func field[T any](t *testing.T, body []byte, name string) (value T, ok bool) {
	t.Helper()
	var object map[string]json.RawMessage
	if err := json.Unmarshal(body, &object); err != nil {
		t.Fatalf("body %s: %v", body, err)
	}
	raw, ok := object[name]
	if ok {
		if err := json.Unmarshal(raw, &value); err != nil {
			t.Fatalf("field %s of %s: %v", name, body, err)
		}
	}
	return value, ok
}
