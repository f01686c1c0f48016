package mapping

// place is a map of the file that has a fixed set of keys, as messages call it.
type place string

const (
	atTop           place = "mapping"
	inHub           place = "hub"
	inProxy         place = "proxy"
	inProvisioning  place = "provisioning of the hub"
	inPolicy        place = "sas_policy"
	inBuffer        place = "buffer"
	inBatch         place = "batch"
	inDefaults      place = "defaults"
	inPublish       place = "publish"
	inOffline       place = "offline"
	inLink          place = "link"
	inRS485         place = "rs485"
	inListener      place = "listener"
	inLimits        place = "limits"
	inDevice        place = "device"
	inIdentity      place = "identity"
	inProvisioned   place = "provisioning of an identity"
	inModbus        place = "modbus"
	inCoAP          place = "coap"
	inProfile       place = "profile"
	inProfileModbus place = "modbus of a profile"
	inProfileCoAP   place = "coap of a profile"
	inPoint         place = "point"
	inLinear        place = "linear"
	inRange         place = "range"
	inWrite         place = "write"
	inMethod        place = "method"
	inDesired       place = "desired property"
	inMessage       place = "message"
	inWhen          place = "when"
	inGateway       place = "gateway"
)

// places lists every place, in the order of the file.
func places() []place {
	return []place{
		atTop, inHub, inProxy, inProvisioning, inPolicy, inGateway, inBuffer, inBatch, inDefaults, inPublish, inOffline, inLink, inRS485, inListener, inLimits, inDevice, inIdentity, inProvisioned, inModbus, inCoAP,
		inPoint, inLinear, inRange, inWrite, inMethod, inDesired, inMessage, inWhen, inProfile, inProfileModbus, inProfileCoAP,
	}
}

// keys are what a place may hold. A key that the product does not act on yet is not among them: one
// that is accepted and ignored is worse than one that is refused.
func (p place) keys() []string {
	switch p {
	case atTop:
		return []string{"version", "hub", "gateway", "buffer", "defaults", "links", "listeners", "devices", "profiles"}
	case inHub:
		return []string{"host", "tier", "units", "trust", "transport", "gateway_host", "proxy", "edge", "provisioning", "sas_policy"}
	case inProxy:
		return []string{"url", "user", "password"}
	case inProvisioning:
		return []string{"scope", "host", "group_key", "key"}
	case inPolicy:
		return []string{"name", "key"}
	case inProvisioned:
		return []string{"id", "key"}
	case inBuffer:
		return []string{"max_size", "max_age", "when_full", "lane_max_size", "batch", "drain_rate", "live_share"}
	case inBatch:
		return []string{"max_size", "max_wait"}
	case inDefaults:
		return []string{"poll", "publish", "offline"}
	case inPublish:
		return []string{"on", "at_least_every", "at_most_every"}
	case inOffline:
		return []string{"after", "retry"}
	case inLink:
		return linkKeys()
	case inListener:
		return []string{"coap", "coaps", "allow", "psk_dir", "limits"}
	case inLimits:
		return []string{"body", "rate", "sessions", "idle"}
	case inDevice:
		return []string{
			"identity", "profile", "modbus", "coap", "points", "methods", "desired", "messages", "local", "override", "only", "except",
			"poll", "publish", "offline",
		}
	case inIdentity:
		return append([]string{"device", "module", "properties", "will", "model_id"}, credentialKeys()...)
	case inModbus:
		return append([]string{"link", "unit", "addressing", "order", "gap", "max_read", "max_write", "even"}, linkKeys()...)
	case inRS485:
		return []string{"rts", "before", "after", "receive"}
	case inCoAP:
		return []string{"listener", "psk", "from", "path", "expect_every", "assume"}
	case inProfile:
		return []string{"source", "verified", "modbus", "coap", "points"}
	case inProfileModbus:
		return []string{"addressing", "order", "gap", "max_read", "max_write", "even"}
	case inProfileCoAP:
		return []string{"path", "expect_every", "assume"}
	case inPoint:
		return []string{
			"senml", "pointer", "format", "at", "bit", "type", "order", "scale", "offset", "linear", "enum", "flags", "padding", "not_available", "wrap",
			"unit", "name", "deadband", "range", "poll", "publish", "write", "hidden",
		}
	case inLinear:
		return []string{"raw", "to"}
	case inRange:
		return []string{"clamp", "drop"}
	case inWrite:
		return []string{"min", "max", "enum", "confirm", "persist", "rate"}
	case inMethod:
		return []string{"write", "from", "value", "read", "timeout", "require", "confirm", "deliver", "expires"}
	case inDesired:
		return []string{"write", "apply", "confirm"}
	case inMessage:
		return []string{"when", "write", "from", "value", "deliver", "expires"}
	case inWhen:
		return []string{"property", "equals"}
	case inGateway:
		return []string{"identity"}
	}
	return nil
}
