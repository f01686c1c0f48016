package hubsim

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestUserNamesOfEveryFormAreUnderstood(t *testing.T) {
	const agent = "azure-iot-device%2F1.18.4%20(node%20v20)"
	for text, want := range map[string]userName{
		"h/d/?api-version=2021-04-12": {host: "h", device: "d", parameters: map[string]string{"api-version": "2021-04-12"}},
		"h/d/m/?api-version=2018-06-30&DeviceClientType=" + agent: {host: "h", device: "d", module: "m", parameters: map[string]string{
			"api-version": "2018-06-30", "DeviceClientType": "azure-iot-device/1.18.4 (node v20)"}},
		"h/d/?DeviceClientType=x&api-version=2021-04-12": {host: "h", device: "d", parameters: map[string]string{
			"api-version": "2021-04-12", "DeviceClientType": "x"}},
		"h/d/?api-version=2021-04-12&model-id=dtmi:com:example:gw;1": {host: "h", device: "d", parameters: map[string]string{
			"api-version": "2021-04-12", "model-id": "dtmi:com:example:gw;1"}},
		"h/d/?api-version=2021-04-12&model-id=dtmi%3Acom%3Agw%3B1": {host: "h", device: "d", parameters: map[string]string{
			"api-version": "2021-04-12", "model-id": "dtmi:com:gw;1"}},
		"h/d/?api-version=2021-04-12&api-version=2011-01-01": {host: "h", device: "d", parameters: map[string]string{"api-version": "2021-04-12"}},
		"h/d/?api-version=2025-08-01-preview":                {host: "h", device: "d", parameters: map[string]string{"api-version": "2025-08-01-preview"}},
		"h/d/api-version=2016-11-14":                         {host: "h", device: "d", short: true, parameters: map[string]string{"api-version": "2016-11-14"}},
		"h/d/api-version=2020-09-30&DeviceClientType=a%2Fb": {host: "h", device: "d", short: true, parameters: map[string]string{
			"api-version": "2020-09-30", "DeviceClientType": "a/b"}},
		"h/d":   {host: "h", device: "d", short: true, parameters: map[string]string{}},
		"h/d/m": {host: "h", device: "d", module: "m", short: true, parameters: map[string]string{}},
		"localhost:8883/d%41/?api-version=2021-04-12": {host: "localhost:8883", device: "d%41", parameters: map[string]string{"api-version": "2021-04-12"}},
	} {
		got, err := parseUserName(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(userName{})); diff != "" {
			t.Errorf("%s (-want +got):\n%s", text, diff)
		}
	}
}

func TestWhatIsNoUserNameIsRefused(t *testing.T) {
	for _, text := range []string{
		"", "h", "h/", "/d", "h//m", "h/d/m/x", "h/d/m/x/?api-version=2021-04-12", "h/?api-version=2021-04-12",
		"h/d/?api-version=latest", "h/d/?api-version=2015-01-01", "h/d/?api-version=", "h/d/?api-version=2021-13-01",
	} {
		if got, err := parseUserName(text); err == nil {
			t.Errorf("%q was taken as %+v", text, got)
		}
	}
}

func TestTheHubAnswersToItsNameAndToLocalhost(t *testing.T) {
	for _, host := range []string{"contoso.azure-devices.net", "Contoso.Azure-Devices.net:8883", "localhost", "LOCALHOST:1", "127.0.0.1:8883", "::1", "[::1]:8883"} {
		if !answersTo("contoso.azure-devices.net", host) {
			t.Errorf("%s is not answered", host)
		}
	}
	for _, host := range []string{"", "contoso", "fabrikam.azure-devices.net", "127.0.0.2", "localhost.evil.example"} {
		if answersTo("contoso.azure-devices.net", host) {
			t.Errorf("%s is answered", host)
		}
	}
}
