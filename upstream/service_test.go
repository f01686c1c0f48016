package upstream

import (
	"crypto/tls"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"time"

	"iothub-gateway/identity"
)

// rest calls the hub's service side and returns the answer.
func (r *rig) rest(method, path, body string) map[string]any {
	r.t.Helper()
	values := map[string]string{}
	for part := range strings.SplitSeq(r.hub.ServiceConnectionString(), ";") {
		name, value, _ := strings.Cut(part, "=")
		values[name] = value
	}
	token, err := identity.ServiceToken(values["HostName"], values["SharedAccessKeyName"], identity.NewSecret(values["SharedAccessKey"]), time.Now().Add(time.Hour))
	if err != nil {
		r.t.Fatal(err)
	}
	request, err := http.NewRequestWithContext(r.t.Context(), method, "https://"+r.hub.HTTPSAddr()+path+"?api-version=2021-04-12", strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	request.Header.Set("Authorization", token.Reveal())
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: r.hub.CAPool(), ServerName: "localhost"}, DisableKeepAlives: true}
	response, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		r.t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode >= 300 {
		r.t.Fatalf("%s %s: %s %s %v", method, path, response.Status, text, err)
	}
	var answer map[string]any
	if len(text) > 0 {
		if err := json.Unmarshal(text, &answer); err != nil {
			r.t.Fatalf("%s: %v", text, err)
		}
	}
	return answer
}

// desire changes the desired properties of a device.
func (r *rig) desire(id, patch string) {
	r.t.Helper()
	r.rest("PATCH", "/twins/"+id, `{"properties":{"desired":`+patch+`}}`)
}

// reported is what the twin of a device says at a dotted path, as JSON.
func (r *rig) reported(id, path string) string {
	r.t.Helper()
	twin := r.rest("GET", "/twins/"+id, "")
	value, _ := find(twin, "properties.reported."+path)
	text, err := json.Marshal(value)
	if err != nil {
		r.t.Fatal(err)
	}
	return string(text)
}
