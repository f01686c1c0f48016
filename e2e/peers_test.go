package e2e

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"math/rand/v2"
	"net"
	"net/url"
	"os/exec"
	"strconv"
	"testing"
	"time"
)

// ran is what a program has left behind.
type ran struct {
	stdout, stderr string
	code           int
}

// peer runs a program that nobody here wrote to its end. One that is missing fails the test.
func peer(t *testing.T, program string, args ...string) ran {
	t.Helper()
	if _, err := exec.LookPath(program); err != nil {
		t.Fatalf("%s is not installed; make test installs what the tests need, or names it (e2e/peers.sh)", program)
	}
	stdout, stderr, code := command(t, ".", program, args...)
	return ran{stdout, stderr, code}
}

// freePort is a port that nobody uses, TCP or UDP, and that the system will not give to a client
// meanwhile: it takes those from 32768 up.
func freePort(t *testing.T) string {
	t.Helper()
	for range 100 {
		port := strconv.Itoa(20000 + rand.IntN(10000))
		tcp, err := net.Listen("tcp", "127.0.0.1:"+port)
		if err != nil {
			continue
		}
		udp, err := net.ListenPacket("udp", "127.0.0.1:"+port)
		_ = tcp.Close()
		if err != nil {
			continue
		}
		_ = udp.Close()
		return port
	}
	t.Fatal("no free port from 20000 to 29999")
	return ""
}

// sasToken signs a token for resource, such as hub.example/devices/d1, with a key in base64 (SAS-4); it
// uses nothing of the gateway's.
func sasToken(t *testing.T, resource, key string, valid time.Duration) string {
	t.Helper()
	raw, err := base64.StdEncoding.DecodeString(key)
	if err != nil {
		t.Fatal(err)
	}
	resource = url.QueryEscape(resource)
	expiry := time.Now().Add(valid).Unix()
	mac := hmac.New(sha256.New, raw)
	fmt.Fprintf(mac, "%s\n%d", resource, expiry)
	signature := url.QueryEscape(base64.StdEncoding.EncodeToString(mac.Sum(nil)))
	return fmt.Sprintf("SharedAccessSignature sr=%s&sig=%s&se=%d", resource, signature, expiry)
}
