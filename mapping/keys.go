package mapping

// place is a map of the file that has a fixed set of keys, as messages call it.
type place string

const (
	atTop           place = "mapping"
	inHub           place = "hub"
	inDefaults      place = "defaults"
	inPublish       place = "publish"
	inOffline       place = "offline"
	inLink          place = "link"
	inDevice        place = "device"
	inIdentity      place = "identity"
	inModbus        place = "modbus"
	inProfile       place = "profile"
	inProfileModbus place = "modbus of a profile"
	inPoint         place = "point"
	inLinear        place = "linear"
	inRange         place = "range"
	inWrite         place = "write"
	inMethod        place = "method"
)

// places lists every place, in the order of the file.
func places() []place {
	return []place{
		atTop, inHub, inDefaults, inPublish, inOffline, inLink, inDevice, inIdentity, inModbus,
		inPoint, inLinear, inRange, inWrite, inMethod, inProfile, inProfileModbus,
	}
}

// keys are what a place may hold. A key that the product does not act on yet is not among them: one
// that is accepted and ignored is worse than one that is refused.
func (p place) keys() []string {
	switch p {
	case atTop:
		return []string{"version", "hub", "defaults", "links", "devices", "profiles"}
	case inHub:
		return []string{"host", "trust", "transport"}
	case inDefaults:
		return []string{"poll", "publish", "offline"}
	case inPublish:
		return []string{"on", "at_least_every", "at_most_every"}
	case inOffline:
		return []string{"after", "retry"}
	case inLink:
		return []string{"tcp", "timeout"}
	case inDevice:
		return []string{
			"identity", "profile", "modbus", "points", "methods", "local", "override", "only", "except",
			"poll", "publish", "offline",
		}
	case inIdentity:
		return []string{"device", "module", "sas_key", "properties"}
	case inModbus:
		return []string{"link", "tcp", "timeout", "unit", "addressing", "order", "gap", "max_read", "max_write", "even"}
	case inProfile:
		return []string{"source", "modbus", "points"}
	case inProfileModbus:
		return []string{"addressing", "order", "gap", "max_read", "max_write", "even"}
	case inPoint:
		return []string{
			"at", "bit", "type", "order", "scale", "offset", "linear", "enum", "flags", "not_available", "wrap",
			"unit", "name", "deadband", "range", "poll", "publish", "write", "hidden",
		}
	case inLinear:
		return []string{"raw", "to"}
	case inRange:
		return []string{"clamp", "drop"}
	case inWrite:
		return []string{"min", "max"}
	case inMethod:
		return []string{"write", "from", "value", "read", "timeout"}
	}
	return nil
}
