// Package bridge joins the field side to the cloud side: Up turns the readings worth a message into
// telemetry, Down turns commands into writes. It knows neither adapters nor queue nor hub, only
// points and functions.
//
// The promise:
//
//   - Accept returns nil only when everything due in the call is durable. A failed Put suppresses
//     nothing: what was due stays due, and the next reading of the point is reported.
//   - Within one identity, messages are put in the order in which their readings were judged.
//   - A device's "no value", a NaN, or a failed reading never becomes a number in a message.
//   - A command is carried out now or refused now with the true reason. It is answered 200 only
//     after the device confirmed, and never "not done" where the device may have done it.
package bridge
