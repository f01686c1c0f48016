// Package identity proves to the IoT Hub who we are, and says until when the proof holds. It promises
// that a key never leaves it: a Secret cannot be printed, logged or marshalled by accident,
// and only the MQTT password it signs goes on the wire.
package identity
