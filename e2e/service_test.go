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
	t     *testing.T
	url   string
	roots *x509.CertPool
	// connectionString is that of a shared access policy.
	connectionString string
}

func serviceOf(t *testing.T, hub *hubsim.Hub) service {
	return service{t, "https://" + hub.HTTPSAddr(), hub.CAPool(), hub.ServiceConnectionString()}
}

// token signs for the service side (SAS-2, SAS-12).
func (s service) token() string {
	s.t.Helper()
	parts := map[string]string{}
	for _, part := range strings.Split(s.connectionString, ";") {
		name, value, _ := strings.Cut(part, "=")
		parts[name] = value
	}
	return sasToken(s.t, parts["HostName"], parts["SharedAccessKey"], time.Minute) + "&skn=" + parts["SharedAccessKeyName"]
}

// do sends a request, whose body is "" or JSON, and wants one of the statuses 200 to 299. The answer's JSON
// goes to result, unless it is nil.
func (s service) do(method, path, body string, result any) {
	s.t.Helper()
	request, err := http.NewRequestWithContext(s.t.Context(), method, s.url+path, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	request.Header.Set("Authorization", s.token())
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
