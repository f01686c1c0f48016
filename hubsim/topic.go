package hubsim

import (
	"bytes"
	"strconv"
	"strings"
)

// topicKind is what a documented topic that a client may publish to is for.
type topicKind uint8

const (
	notATopic topicKind = iota
	telemetryTopic
	twinTopic
	methodAnswerTopic
)

const (
	methodAnswer  = "$iothub/methods/res/"
	methodFilter  = "$iothub/methods/POST/#"
	methodRequest = "$iothub/methods/POST/"
)

// topics are the topics and filters of one identity.
type topics struct {
	id     string // "device" or "device/module"
	events []byte
	// filters are what it may subscribe to.
	filters []string
}

// topicsOf forms the topics of an identity; module is "" for a device (D2C-1, D2C-2, C2D-1, C2D-3,
// TWIN-1, TWIN-12, METH-1, EDGE-10).
func topicsOf(device, module string) topics {
	t := topics{id: identityName(device, module)}
	t.filters = []string{
		twinFilter, desiredFilter, methodFilter, "$iothub/credentials/res/#",
	}
	root := "devices/" + device
	if module != "" {
		root += "/modules/" + module
		t.filters = append(t.filters, root+"/#", root+"/inputs/#")
	} else {
		t.filters = append(t.filters, commandFilters(device)[1])
	}
	t.filters = append(t.filters, root+"/messages/devicebound/#")
	t.events = []byte(root + "/messages/events")
	return t
}

// commandFilters are the filters of cloud-to-device messages (C2D-1, C2D-3).
func commandFilters(device string) [2]string {
	return [2]string{"devices/" + device + "/messages/devicebound/#", "devices/+/messages/devicebound/#"}
}

// classify tells what a PUBLISH topic is for. rest is what follows the fixed part: the property bag of
// telemetry, otherwise what follows the prefix.
func (t *topics) classify(topic []byte) (kind topicKind, rest []byte) {
	if rest, ok := bytes.CutPrefix(topic, t.events); ok {
		if len(rest) == 0 {
			return telemetryTopic, nil // without the slash: Q18
		}
		if rest[0] == '/' {
			return telemetryTopic, rest[1:]
		}
		return notATopic, nil
	}
	if rest, ok := bytes.CutPrefix(topic, []byte(methodAnswer)); ok {
		return methodAnswerTopic, rest
	}
	if rest, ok := bytes.CutPrefix(topic, []byte(twinPrefix)); ok {
		return twinTopic, rest
	}
	return notATopic, nil
}

// misfit says what is wrong with a topic that classify does not know.
func (t *topics) misfit(topic []byte) error {
	text := string(topic)
	parts := strings.Split(text, "/")
	switch {
	case strings.ContainsAny(text, "+#"):
		return wrong("CLOSE-4", "a wildcard in the topic of a PUBLISH")
	case strings.HasPrefix(text, "devices/") && len(parts) > 1 && !strings.HasPrefix(text+"/", string(t.root())+"/"):
		return wrong("D2C-3, CLOSE-3", "the topic names an identity other than %s", t.id)
	default:
		return wrong("CLOSE-3", "not a topic of IoT Hub; telemetry goes to %s/", t.events)
	}
}

func (t *topics) root() []byte { return bytes.TrimSuffix(t.events, []byte("/messages/events")) }

// allows tells whether the identity may subscribe to filter (C2D-2).
func (t *topics) allows(filter string) bool {
	for _, f := range t.filters {
		if f == filter {
			return true
		}
	}
	return false
}

// parseMethodAnswer reads "{status}/?$rid={rid}", what follows $iothub/methods/res/ (METH-3).
func parseMethodAnswer(rest []byte) (status int, rid string, err error) {
	text, query, found := strings.Cut(string(rest), "/?")
	status, err = strconv.Atoi(text)
	if err != nil {
		return 0, "", wrong("METH-21", "the status %q is not an integer", text)
	}
	for pair := range strings.SplitSeq(query, "&") {
		if value, ok := strings.CutPrefix(pair, "$rid="); ok && found {
			return status, value, nil
		}
	}
	return 0, "", wrong("METH-3", "the topic has no /?$rid=")
}

// identityName is "device" or "device/module".
func identityName(device, module string) string {
	if module == "" {
		return device
	}
	return device + "/" + module
}
