package upstream

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	gateway "iothub-gateway"
)

// cloudTopic is the topic of id's cloud-to-device messages up to the property bag (C2D-1, C2D-16, C2D-32).
func cloudTopic(id gateway.IdentityID) string {
	topic := "devices/" + id.Device()
	if module := id.Module(); module != "" {
		topic += "/modules/" + module
	}
	return topic + "/messages/devicebound/"
}

// Names of system properties in a bag that mean something here (D2C-16, C2D-21).
const (
	bagMessageID = "$.mid"
	bagExpires   = "$.exp"
	bagAck       = "iothub-ack"
)

// parseBag decodes the property bag of a cloud-to-device message: names and values percent-encoded, '+' being
// itself; a name alone is a null (C2D-17 to C2D-21). A bag that could be read in two ways is refused: a
// command is not guessed.
func parseBag(bag string, m *gateway.CloudMessage) error {
	bag = strings.TrimSuffix(bag, "/")
	if bag == "" {
		return nil
	}
	seen := map[string]bool{}
	for pair := range strings.SplitSeq(bag, "&") {
		rawName, rawValue, _ := strings.Cut(pair, "=")
		name, err := url.PathUnescape(rawName)
		value, err2 := url.PathUnescape(rawValue)
		switch {
		case err != nil || err2 != nil:
			return fmt.Errorf("property %q is not percent-encoded: %w", pair, errors.Join(err, err2))
		case name == "":
			return fmt.Errorf("property %q has no name", pair)
		case strings.ContainsAny(pair, "/") || strings.Count(pair, "=") > 1:
			return fmt.Errorf("property %q is not encoded", pair)
		case seen[strings.ToLower(name)]:
			return fmt.Errorf("property %q comes twice", name)
		}
		seen[strings.ToLower(name)] = true
		switch {
		case name == bagMessageID:
			m.ID = value
		case name == bagExpires:
			if m.Expires, err = parseExpiry(value); err != nil {
				return err
			}
		case strings.HasPrefix(name, "$.") || name == bagAck:
		default:
			m.Properties = append(m.Properties, gateway.Property{Name: name, Value: value})
		}
	}
	return nil
}

// parseExpiry reads an absolute expiry, ISO 8601; without a zone it is UTC. The year 1 is how .NET says
// never.
func parseExpiry(text string) (time.Time, error) {
	t, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		t, err = time.Parse("2006-01-02T15:04:05.999999999", text)
	}
	if err != nil {
		return t, fmt.Errorf("the expiry %q is no time", text)
	}
	if t.Year() == 1 {
		return time.Time{}, nil
	}
	return t, nil
}
