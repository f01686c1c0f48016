//go:build proof

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"iothub-gateway/internal/testkit"
)

const debianSuite = "bookworm"

// debianRoot is a minimal Debian with systemd in it, made once and kept in the user's cache.
func debianRoot(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("booting a system in a container takes root: run `sudo make proof`")
	}
	for _, command := range []string{"systemd-nspawn", "debootstrap", "apt-get", "unshare", "nsenter"} {
		if _, err := exec.LookPath(command); err != nil {
			t.Fatalf("%v; run `make proof`, which installs what is missing on Debian", err)
		}
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	cache = filepath.Join(cache, "iothub-gateway-proof")
	if err := os.MkdirAll(cache, 0o700); err != nil {
		t.Fatal(err)
	}
	unlock := lockDirectory(t, cache)
	defer unlock()
	root := filepath.Join(cache, debianSuite)
	if _, err := os.Stat(root); err == nil {
		return root
	}
	unfinished := root + ".unfinished"
	if err := os.RemoveAll(unfinished); err != nil {
		t.Fatal(err)
	}
	t.Log("no Debian in the cache yet: making one, which takes a minute or two")
	// In mounts of its own, so that a debootstrap that is killed leaves none behind.
	out, err := exec.CommandContext(t.Context(), "unshare", "--mount", "debootstrap", "--variant=minbase",
		"--include=systemd,systemd-sysv", debianSuite, unfinished, debianMirror(t)).CombinedOutput()
	if err != nil {
		_ = os.RemoveAll(unfinished)
		t.Fatalf("debootstrap: %v\n%s", err, out)
	}
	if err := os.Rename(unfinished, root); err != nil {
		t.Fatal(err)
	}
	return root
}

// lockDirectory waits until nobody else makes something in dir.
func lockDirectory(t *testing.T, dir string) (unlock func()) {
	t.Helper()
	handle, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Flock(int(handle.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	return func() { _ = handle.Close() }
}

// debianMirror is where this machine's apt gets the suite from.
func debianMirror(t *testing.T) string {
	t.Helper()
	for _, refresh := range []bool{false, true} { // apt knows its targets only after an update
		if refresh {
			if out, err := exec.CommandContext(t.Context(), "apt-get", "update", "-q").CombinedOutput(); err != nil {
				t.Fatalf("apt-get update: %v\n%s", err, out)
			}
		}
		targets, err := exec.CommandContext(t.Context(), "apt-get", "indextargets",
			"--format", "$(CODENAME) $(COMPONENT) $(REPO_URI)", "Identifier: Packages").Output()
		if err != nil {
			t.Fatalf("apt-get indextargets: %v", err)
		}
		for line := range strings.Lines(string(targets)) {
			if uri, ok := strings.CutPrefix(strings.TrimSpace(line), debianSuite+" main "); ok {
				return uri
			}
		}
	}
	t.Fatalf("apt of this machine knows no mirror of Debian %s; add one to /etc/apt", debianSuite)
	return ""
}

// box is a booted Debian of its own: processes, files, users and network, which has only loopback.
// What it writes is in memory, and gone when it ends.
type box struct {
	t           *testing.T
	nspawn      *exec.Cmd
	leader      string // process id of the box's systemd, seen from outside
	ended       chan struct{}
	testkit.Log // of its console
}

// boot starts a box on root and waits until its systemd has reached its default target.
func boot(t *testing.T, root string) *box {
	t.Helper()
	name := "iothub-gateway-proof-" + strconv.Itoa(os.Getpid())
	notify, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: "@" + name, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer notify.Close()
	b := &box{t: t, ended: make(chan struct{})}
	args := []string{"--quiet", "--directory=" + root, "--volatile=overlay", "--private-network", "--machine=" + name,
		"--console=pipe", "--notify-ready=yes", "--boot"}
	if _, err := os.Stat("/run/systemd/system"); err != nil { // no systemd here to register with
		args = append(args, "--register=no", "--keep-unit")
		t.Cleanup(removeControlGroups)
	}
	b.nspawn = exec.Command("systemd-nspawn", args...)
	b.nspawn.Env = append(os.Environ(), "NOTIFY_SOCKET=@"+name)
	b.nspawn.Stdout, b.nspawn.Stderr = b, b
	// A test that is killed powers the box off; systemd-nspawn that is killed would leave it running.
	b.nspawn.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := b.nspawn.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = b.nspawn.Wait() // how it ended is nobody's business: the box is gone either way
		close(b.ended)
	}()
	t.Cleanup(b.end)
	b.awaitReady(notify)
	return b
}

// awaitReady reads what systemd-nspawn says about the container.
func (b *box) awaitReady(notify *net.UnixConn) {
	b.t.Helper()
	if err := notify.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		b.t.Fatal(err)
	}
	buffer := make([]byte, 4096)
	for ready := false; !ready; {
		n, err := notify.Read(buffer)
		if err != nil {
			b.t.Fatalf("the container did not boot: %v\n%s", err, b.String())
		}
		for line := range strings.Lines(string(buffer[:n])) {
			line = strings.TrimSpace(line)
			if leader, ok := strings.CutPrefix(line, "X_NSPAWN_LEADER_PID="); ok {
				b.leader = leader
			}
			ready = ready || line == "READY=1"
		}
	}
	if b.leader == "" {
		b.t.Fatal("systemd-nspawn did not name the process of the container")
	}
}

// end powers the box off and wants nothing of it to be left.
func (b *box) end() {
	if b.t.Failed() && b.leader != "" {
		journal, _ := b.try("journalctl", "--no-pager", "--lines=120", "--output=short-precise")
		b.t.Logf("the journal of the container:\n%s", journal)
	}
	_ = b.nspawn.Process.Signal(syscall.SIGTERM)
	select {
	case <-b.ended:
	case <-time.After(30 * time.Second):
		b.t.Error("the container did not power off within 30 s")
		if pid, err := strconv.Atoi(b.leader); err == nil {
			_ = syscall.Kill(pid, syscall.SIGKILL) // and with it every process of the container
		}
		_ = b.nspawn.Process.Kill()
		<-b.ended
	}
	if _, err := os.Stat("/proc/" + b.leader); b.leader != "" && err == nil {
		b.t.Errorf("process %s of the container is still there", b.leader)
	}
}

// removeControlGroups removes the empty ones that systemd-nspawn leaves where no systemd cleans up.
func removeControlGroups() {
	for _, pattern := range []string{"payload/*", "payload", "supervisor"} {
		groups, _ := filepath.Glob("/sys/fs/cgroup/*/" + pattern) // the pattern is well formed
		for _, group := range groups {
			_ = os.Remove(group) // fails for one that is in use
		}
	}
}

// path is where a file of the box stands for us.
func (b *box) path(name string) string { return filepath.Join("/proc", b.leader, "root", name) }

// install writes a file into the box, its directories with it.
func (b *box) install(name string, mode os.FileMode, content []byte) {
	b.t.Helper()
	if err := os.MkdirAll(filepath.Dir(b.path(name)), 0o755); err != nil {
		b.t.Fatal(err)
	}
	if err := os.WriteFile(b.path(name), content, mode); err != nil {
		b.t.Fatal(err)
	}
	if err := os.Chmod(b.path(name), mode); err != nil { // whatever the umask is
		b.t.Fatal(err)
	}
}

// try runs a command in the box as root and returns all that it said.
func (b *box) try(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "nsenter", append([]string{"--target", b.leader, "--all", "--"}, args...)...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8", "SYSTEMD_PAGER=cat", "SYSTEMD_COLORS=0"}
	out, err := cmd.CombinedOutput()
	return string(out), errors.Join(err, ctx.Err())
}

// run is try for a command that must succeed.
func (b *box) run(t *testing.T, args ...string) string {
	t.Helper()
	out, err := b.try(args...)
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// property asks systemd for one property of the service.
func (b *box) property(t *testing.T, name string) string {
	t.Helper()
	return strings.TrimSpace(b.run(t, "systemctl", "show", "--value", "--property="+name, unitName))
}

// asService runs a command among the files that the service sees, as the user it runs as.
func (b *box) asService(t *testing.T, args ...string) (string, error) {
	t.Helper()
	pid := b.property(t, "MainPID")
	user := strconv.FormatUint(uint64(b.owner(t, "/proc/"+pid)), 10)
	return b.try(append([]string{"nsenter", "--target", pid, "--mount", "--user", "--setuid", user, "--setgid", user, "--"}, args...)...)
}

// owner is the user id that a file of the box belongs to.
func (b *box) owner(t *testing.T, name string) uint32 {
	t.Helper()
	info, err := os.Stat(b.path(name))
	if err != nil {
		t.Fatal(err)
	}
	return info.Sys().(*syscall.Stat_t).Uid
}

// entry is one line of the journal.
type entry struct {
	Priority string `json:"PRIORITY"`
	Message  string `json:"MESSAGE"`
}

// journal is what the service's own process said, of at least the given priority.
func (b *box) journal(t *testing.T, priority string) []entry {
	t.Helper()
	var entries []entry
	out := b.run(t, "journalctl", "--no-pager", "--output=json", "--priority="+priority, "_SYSTEMD_UNIT="+unitName)
	for line := range strings.Lines(out) {
		var e entry
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("journal line %s: %v", line, err)
		}
		entries = append(entries, e)
	}
	return entries
}

// inNetwork runs f in the box's network: a socket belongs to the network of the thread that makes it,
// and goes on there whoever uses it.
func (b *box) inNetwork(f func()) {
	b.t.Helper()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		b.t.Fatal(err)
	}
	defer home.Close()
	away, err := os.Open("/proc/" + b.leader + "/ns/net")
	if err != nil {
		b.t.Fatal(err)
	}
	defer away.Close()
	runtime.LockOSThread()
	if err := unix.Setns(int(away.Fd()), unix.CLONE_NEWNET); err != nil {
		b.t.Fatal(err)
	}
	defer func() {
		if err := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); err != nil {
			b.t.Errorf("a thread is left in the container's network, and ends with this test: %v", err)
			return
		}
		runtime.UnlockOSThread()
	}()
	f()
}
