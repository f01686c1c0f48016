package hubsim

import (
	"slices"
	"strings"
	"testing"
)

func TestTopicsAreTakenForWhatTheyAre(t *testing.T) {
	device, module := topicsOf("dev1", ""), topicsOf("dev1", "mod1")
	for _, c := range []struct {
		topics topics
		topic  string
		kind   topicKind
		rest   string
	}{
		{device, "devices/dev1/messages/events", telemetryTopic, ""},
		{device, "devices/dev1/messages/events/", telemetryTopic, ""},
		{device, "devices/dev1/messages/events/a=1", telemetryTopic, "a=1"},
		{device, "devices/dev1/messages/events/a=1/", telemetryTopic, "a=1/"},
		{device, "devices/dev1/messages/eventsX", notATopic, ""},
		{device, "devices/dev1/message/events/", notATopic, ""},
		{device, "devices/dev2/messages/events/", notATopic, ""},
		{device, "devices/dev1/modules/mod1/messages/events/", notATopic, ""},
		{device, "Devices/dev1/messages/events/", notATopic, ""},
		{device, "sensors/temperature", notATopic, ""},
		{device, "", notATopic, ""},
		{module, "devices/dev1/modules/mod1/messages/events/%24.on=o/", telemetryTopic, "%24.on=o/"},
		{module, "devices/dev1/messages/events/", notATopic, ""},
		{device, "$iothub/twin/GET/?$rid=1", twinTopic, "GET/?$rid=1"},
		{device, "$iothub/twin/PATCH/properties/reported/?$rid=2", twinTopic, "PATCH/properties/reported/?$rid=2"},
		{device, "$iothub/methods/res/200/?$rid=1f", methodAnswerTopic, "200/?$rid=1f"},
		{device, "$IOTHUB/methods/res/200/?$rid=1f", notATopic, ""},
	} {
		kind, rest := c.topics.classify([]byte(c.topic))
		if kind != c.kind || string(rest) != c.rest {
			t.Errorf("%s for %s: kind %d rest %q, want %d %q", c.topic, c.topics.id, kind, rest, c.kind, c.rest)
		}
	}
}

func TestAMisfitIsExplained(t *testing.T) {
	topics := topicsOf("dev1", "")
	for topic, want := range map[string]string{
		"devices/dev2/messages/events/":  "an identity other than dev1",
		"devices/dev10/messages/events/": "an identity other than dev1",
		"devices/dev1/message/events/":   "telemetry goes to devices/dev1/messages/events/",
		"a/+/b":                          "wildcard",
		"x":                              "not a topic of IoT Hub",
	} {
		if got := topics.misfit([]byte(topic)).Error(); !strings.Contains(got, want) {
			t.Errorf("%s: %q, want %q", topic, got, want)
		}
	}
}

func TestDocumentedFiltersAndNoOthers(t *testing.T) {
	good := map[string][]string{
		"dev1": {
			"$iothub/twin/res/#", "$iothub/twin/PATCH/properties/desired/#", "$iothub/methods/POST/#",
			"devices/dev1/messages/devicebound/#", "devices/+/messages/devicebound/#",
		},
		"dev1/mod1": {
			"$iothub/twin/res/#", "$iothub/twin/PATCH/properties/desired/#", "$iothub/methods/POST/#",
			"devices/dev1/modules/mod1/#", "devices/dev1/modules/mod1/inputs/#", "devices/dev1/modules/mod1/messages/devicebound/#",
		},
	}
	bad := []string{
		"#", "+", "$iothub/#", "$iothub/methods/POST/reboot/#", "$iothub/methods/POST/+/#", "devices/dev2/messages/devicebound/#",
		"devices/dev1/messages/devicebound/", "devices/dev1/messages/devicebound/+", "devices/+/+/devicebound/#", "devices/dev1/#", "",
	}
	for identity, filters := range good {
		topics := topicsOf(splitIdentity(identity))
		for _, filter := range filters {
			if !topics.allows(filter) {
				t.Errorf("%s may not subscribe to %s", identity, filter)
			}
		}
		for _, filter := range bad {
			if !slices.Contains(filters, filter) && topics.allows(filter) {
				t.Errorf("%s may subscribe to %s", identity, filter)
			}
		}
	}
}

func TestMethodAnswersAreReadVerbatim(t *testing.T) {
	for text, want := range map[string]string{
		"200/?$rid=1f": "1f", "0/?$rid=a%20b": "a%20b", "500/?x=1&$rid=7": "7", "-1/?$rid=": "",
	} {
		if _, rid, err := parseMethodAnswer([]byte(text)); err != nil || rid != want {
			t.Errorf("%s: rid %q, %v; want %q", text, rid, err, want)
		}
	}
	for _, text := range []string{"", "ok/?$rid=1", "200", "200/$rid=1", "200/?rid=1", "2 00/?$rid=1"} {
		if _, _, err := parseMethodAnswer([]byte(text)); err == nil {
			t.Errorf("%q was taken", text)
		}
	}
}
