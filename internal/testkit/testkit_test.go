package testkit

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// judged is a test that may fail.
type judged struct {
	testing.TB
	said string
	ends []func()
}

func (j *judged) Helper()                           {}
func (j *judged) Error(args ...any)                 { j.said += fmt.Sprint(args...) }
func (j *judged) Fatalf(format string, args ...any) { j.said += fmt.Sprintf(format, args...); panic(j) }
func (j *judged) Cleanup(f func())                  { j.ends = append(j.ends, f) }

// verdict is how f's test fails; "" if it does not.
func verdict(f func(t testing.TB)) string {
	j := &judged{}
	func() {
		defer func() {
			if r := recover(); r != nil && r != any(j) {
				panic(r)
			}
		}()
		f(j)
	}()
	for _, end := range j.ends {
		end()
	}
	return j.said
}

func TestWaitingEndsAsSoonAsItIsTrueAndFailsWhenItNeverIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		if said := verdict(func(t testing.TB) {
			Eventually(t, "a second has passed", func() bool { return time.Since(began) >= time.Second })
		}); said != "" || time.Since(began) > 1100*time.Millisecond {
			t.Errorf("%q after %v", said, time.Since(began))
		}
		if said := verdict(func(t testing.TB) { Within(t, time.Second, "it rains", func() bool { return false }) }); said != "not within 1s: it rains" {
			t.Errorf("%q", said)
		}
	})
}

func TestWhatRunsInTheBackgroundHasEndedWhenTheTestHas(t *testing.T) {
	for _, want := range []string{"", "broken"} {
		ended := 0
		said := verdict(func(t testing.TB) {
			stop := Background(t, func(ctx context.Context) error {
				<-ctx.Done()
				ended++
				if want != "" {
					return errors.New(want)
				}
				return nil
			})
			stop()
			stop()
		})
		if said != want || ended != 1 {
			t.Errorf("%q, want %q; it ended %d times", said, want, ended)
		}
	}
}

func TestNumbersComeFromTheEnvironment(t *testing.T) {
	t.Setenv("TESTKIT_NUMBER", "17")
	t.Setenv("TESTKIT_WORD", "many")
	t.Setenv("SEED", "5")
	if Number(t, "TESTKIT_NUMBER", 3) != 17 || Number(t, "TESTKIT_NOTHING", 3) != 3 || Seed(t) != 5 {
		t.Error("a number is another than the environment says")
	}
	if said := verdict(func(t testing.TB) { Number(t, "TESTKIT_WORD", 3) }); !strings.Contains(said, "TESTKIT_WORD") {
		t.Errorf("%q", said)
	}
}

func TestNotesAreKeptUntilTheyAreForgotten(t *testing.T) {
	var n Notes
	value := []byte("a")
	if err := n.Put(t.Context(), "k", value); err != nil {
		t.Fatal(err)
	}
	value[0] = 'b'
	if got, ok := n.Get("k"); string(got) != "a" || !ok || fmt.Sprint(n.All()) != "map[k:a]" {
		t.Errorf("%s, %v", got, n.All())
	}
	full := errors.New("disk full")
	n.Fail(full)
	if n.Put(t.Context(), "l", value) != full || n.Delete(t.Context(), "k") != full || fmt.Sprint(n.All()) != "map[k:a]" {
		t.Error(n.All())
	}
	n.Fail(nil)
	if err := n.Delete(t.Context(), "k"); err != nil || len(n.All()) != 0 {
		t.Error(err, n.All())
	}
}

func TestNamesAreThoseOfTests(t *testing.T) {
	if names := Names(t, "."); !names["TestNamesAreThoseOfTests"] || names["verdict"] || len(names) < 5 {
		t.Error(names)
	}
}

func TestAnIssuedCertificateIsGoodForWhoTrustsItsParent(t *testing.T) {
	root := Issue(t, nil, x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign})
	leaf := Issue(t, &root, x509.Certificate{DNSNames: []string{"localhost"}})
	pool := x509.NewCertPool()
	certificate, _ := PEM(t, root)
	if !pool.AppendCertsFromPEM([]byte(certificate)) {
		t.Fatal(certificate)
	}
	if _, err := leaf.Leaf.Verify(x509.VerifyOptions{Roots: pool, DNSName: "localhost"}); err != nil {
		t.Error(err)
	}
	pair, err := tls.X509KeyPair(func() (c, k []byte) { a, b := PEM(t, leaf); return []byte(a), []byte(b) }())
	if err != nil || !pair.Leaf.Equal(leaf.Leaf) {
		t.Error(err)
	}
	if ended := Issue(t, nil, x509.Certificate{NotAfter: time.Unix(1e9, 0)}); !ended.Leaf.NotAfter.Equal(time.Unix(1e9, 0)) {
		t.Error(ended.Leaf.NotAfter)
	}
}
