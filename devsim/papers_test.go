package devsim

import (
	"crypto/tls"
	"io"
	"log"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	client "github.com/simonvetter/modbus"

	"iothub-gateway/adapters/modbus"
)

// securePlant is the boiler's plant with Modbus Security.
func securePlant(certificate string) Config {
	plant := boilerPlant()
	plant.Links[0].TLS = &modbus.TLS{Certificate: certificate}
	return Config{Plant: plant}
}

func TestAnIndependentClientReadsOverModbusSecurity(t *testing.T) {
	s := start(t, securePlant("file:client.pem"))
	var files []string
	for _, name := range []string{"ca.pem", "client.pem"} {
		status, text := call(t, s, "GET", "/tls/"+name, "")
		file := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil || status != http.StatusOK {
			t.Fatal(status, err)
		}
		files = append(files, file)
	}
	roots, err := client.LoadCertPool(files[0])
	if err != nil {
		t.Fatal(err)
	}
	own, err := tls.LoadX509KeyPair(files[1], files[1])
	if err != nil {
		t.Fatal(err)
	}
	c, err := client.NewClient(&client.ClientConfiguration{
		URL: "tcp+tls://" + s.Addr(boiler), TLSClientCert: &own, TLSRootCAs: roots, Timeout: 2 * time.Second, Logger: log.New(io.Discard, "", 0),
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Open(); err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetUnitId(1); err != nil {
		t.Fatal(err)
	}
	if word, err := c.ReadRegister(9, client.HOLDING_REGISTER); err != nil || word != 575 {
		t.Errorf("%d, %v", word, err)
	}
}

func TestADeviceWantsACertificateIfTheMappingHasOne(t *testing.T) {
	for certificate, served := range map[string]bool{"file:client.pem": false, "": true} {
		s := start(t, securePlant(certificate))
		client, err := s.Papers().Client()
		if err != nil {
			t.Fatal(err)
		}
		client.Certificates = nil
		conn, err := tls.Dial("tcp", s.Addr(boiler), client)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if err := conn.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
			t.Fatal(err)
		}
		_, _ = conn.Write(wire(t, "0001"+readSetpoint))
		if n, _ := io.ReadFull(conn, make([]byte, 11)); (n == 11) != served {
			t.Errorf("mapping's certificate %q: %d bytes of an answer", certificate, n)
		}
	}
}

func TestAPlantWithoutTLSHasNoPapers(t *testing.T) {
	s := build(t, Config{Plant: boilerPlant()})
	if status, _ := call(t, s, "GET", "/tls/ca.pem", ""); status != http.StatusNotFound || s.Papers().CA != nil {
		t.Errorf("%d", status)
	}
	if status, _ := call(t, s, "PUT", "/faults", `{"boiler": [{"do": "silent"}]}`); status != http.StatusNoContent {
		t.Errorf("faults: %d", status)
	}
	if status, _ := call(t, s, "PUT", "/faults", `{"boilr": []}`); status != http.StatusNotFound {
		t.Errorf("faults of an unknown link: %d", status)
	}
	if status, _ := call(t, s, "PUT", "/faults", `{"boiler": [{"do": "it"}]}`); status != http.StatusBadRequest {
		t.Errorf("an unknown fault: %d", status)
	}
}
