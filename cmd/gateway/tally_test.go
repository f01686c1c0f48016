package main

import (
	"strings"
	"testing"

	gateway "iothub-gateway"
	"iothub-gateway/hubsim"
)

func message(sequence uint64, device, mid string) hubsim.Message {
	return hubsim.Message{Sequence: sequence, Device: device, System: map[string]string{"message-id": mid}}
}

func TestTheTallyFindsWhatIsLostAndWhatIsRepeated(t *testing.T) {
	for name, c := range map[string]struct {
		mids                      []string
		produced                  uint64
		delivered, repeated, lost uint64
	}{
		"all well":             {[]string{"q-1", "q-2", "q-3"}, 3, 3, 0, 0},
		"a rewind":             {[]string{"q-1", "q-2", "q-1", "q-2", "q-3"}, 3, 3, 2, 0},
		"a hole":               {[]string{"q-1", "q-3"}, 3, 2, 0, 1},
		"the end is missing":   {[]string{"q-1"}, 3, 1, 0, 2},
		"the start is missing": {[]string{"q-2", "q-3"}, 3, 2, 0, 1},
		"nothing came":         {nil, 2, 0, 0, 2},
		"somebody else's":      {[]string{"q-1", "hello", "", "q-", "q-0"}, 1, 1, 0, 0},
	} {
		tally := newTally()
		for i, mid := range c.mids {
			tally.take(message(uint64(i+1), "d", mid))
		}
		lost := tally.lost(map[gateway.IdentityID]uint64{"d": c.produced})
		if tally.delivered != c.delivered || tally.repeated != c.repeated || lost != c.lost {
			t.Errorf("%s: %d delivered, %d repeated, %d lost; want %d, %d, %d", name, tally.delivered, tally.repeated, lost, c.delivered, c.repeated, c.lost)
		}
	}
}

func TestTheLanesOfADeviceAndItsModuleAreTwo(t *testing.T) {
	tally := newTally()
	m := message(1, "d", "q-1")
	tally.take(m)
	m.Module = "m"
	tally.take(m)
	if tally.delivered != 2 || tally.repeated != 0 {
		t.Errorf("%d delivered, %d repeated", tally.delivered, tally.repeated)
	}
}

func TestFieldsAreShownInTheirOwnOrder(t *testing.T) {
	for body, want := range map[string]string{
		`{"b":1,"a":"x","c":{"d":true}}`: `b=1 a="x" c={"d":true}`,
		`[1,2]`:                          `[1,2]`,
		`not json`:                       `not json`,
		`{}`:                             ``,
	} {
		if got := fields([]byte(body)); got != want {
			t.Errorf("%s: %q, want %q", body, got, want)
		}
	}
}

func TestConnectionStringsAreTakenApartAndNeverShown(t *testing.T) {
	parts, err := parseConnectionString("HostName=h.azure-devices.net;SharedAccessKeyName=service;SharedAccessKey=a+b/c=")
	if err != nil || parts["HostName"] != "h.azure-devices.net" || parts["SharedAccessKey"] != "a+b/c=" {
		t.Errorf("%v, %v", parts, err)
	}
	if _, err := parseConnectionString("HostName=h;SharedAccessKey=marker"); err == nil || len(err.Error()) == 0 || strings.Contains(err.Error(), "marker") {
		t.Errorf("without a policy: %v", err)
	}
}

func TestTheHubsErrorsAreSaidInOneSentence(t *testing.T) {
	for body, want := range map[string]string{
		`{"Message":"{\"errorCode\":404103,\"message\":\"Timed out waiting for device to connect.\"}","ExceptionMessage":""}`: "404103 Timed out waiting for device to connect.",
		`{"Message":"ErrorCode:DeviceNotFound;no device x","ExceptionMessage":"Tracking ID:1"}`:                               "ErrorCode:DeviceNotFound;no device x",
		`plain text`: "plain text",
	} {
		if got := hubErrorText([]byte(body)); got != want {
			t.Errorf("%s: %q", body, got)
		}
	}
}
