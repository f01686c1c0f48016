// Package upstream keeps exactly one MQTT connection per IoT Hub identity and delivers each
// identity's queue through it. It promises:
//
//   - Within one identity, messages are sent in the order they were accepted. After a connection loss
//     the stream may rewind by at most the window; a repeat has the same message id ($.mid) and the
//     same bytes.
//   - An entry is acknowledged to the queue only after the hub's PUBACK on the connection that sent
//     it, and only when everything before it has been acknowledged too.
//   - One identity's trouble never delays another's: each has its own connection, window and backoff;
//     all that identities of one hub share is what that hub takes, and all identities, if the operator limits
//     it, the rate at which messages are sent. They take turns in both. A hub in trouble slows no other.
//   - A direct method is answered on the connection it came on, or not at all.
//   - A cloud-to-device message is executed at most once, also across restarts, and acknowledged once its
//     outcome is known and noted, in the order of arrival, within 45 s.
//   - Desired properties are applied in the order of their versions, and what became of each is reported as
//     what really happened.
//
// The MQTT client is paho's, a fresh one for each connection and stripped of everything that remembers
// or repeats: the queue does that.
package upstream
