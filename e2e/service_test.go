package e2e

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"iothub-gateway/hubsim"
)

// service is a hub's service side, as applications reach it over HTTPS.
type service struct {
	t             *testing.T
	url           string
	roots         *x509.CertPool
	authorization string
}

func serviceOf(t *testing.T, hub *hubsim.Hub) service {
	t.Helper()
	return service{t, "https://" + hub.HTTPSAddr(), hub.CAPool(), serviceToken(t, hub.ServiceConnectionString())}
}

// serviceToken signs for the service side, as the policy that a connection string names (SAS-2, SAS-12).
func serviceToken(t *testing.T, connectionString string) string {
	t.Helper()
	parts := map[string]string{}
	for _, part := range strings.Split(connectionString, ";") {
		name, value, _ := strings.Cut(part, "=")
		parts[name] = value
	}
	return sasToken(t, parts["HostName"], parts["SharedAccessKey"], time.Minute) + "&skn=" + parts["SharedAccessKeyName"]
}

// do sends a request, whose body is "" or JSON, and wants one of the statuses 200 to 299. The answer's JSON
// goes to result, unless it is nil.
func (s service) do(method, path, body string, result any) {
	s.t.Helper()
	request, err := http.NewRequestWithContext(s.t.Context(), method, s.url+path, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	request.Header.Set("Authorization", s.authorization)
	request.Header.Set("Content-Type", "application/json")
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: s.roots}, DisableKeepAlives: true}
	response, err := (&http.Client{Transport: transport, Timeout: time.Minute}).Do(request)
	if err != nil {
		s.t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode/100 != 2 {
		s.t.Fatalf("%s %s %s: %s %s, %v", method, path, body, response.Status, text, err)
	}
	if result != nil {
		if err := json.Unmarshal(text, result); err != nil {
			s.t.Fatalf("%s %s: %s: %v", method, path, text, err)
		}
	}
}
