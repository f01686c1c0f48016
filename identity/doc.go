// Package identity proves to the IoT Hub who we are, and says until when the proof holds: by a shared access
// key of the identity or of a policy, a ready token, a certificate, through a provisioning service that
// says which hub it is, or as a module of IoT Edge. It promises:
//
//   - A key never leaves it: a Secret cannot be printed, logged or marshalled by accident, and only the MQTT
//     password that it signs goes on the wire.
//   - What somebody else replaces, tokens and certificates, is read for each connection.
//   - What a provisioning service assigned stands until the hub does not take the device any more, also
//     while the service cannot be asked.
package identity
