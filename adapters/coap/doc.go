// Package coap receives what CoAP devices report: an Adapter is one listener, plain UDP or DTLS with
// pre-shared keys.
//
// The promise:
//
//   - A device is answered 2.04 only after accept returned nil, so never before its readings are
//     durable. The answer, or a sign that it will come, leaves within 1.5 s (COAP-60, COAP-61).
//   - One POST is one report: all of its readings reach accept in one call. A retransmission is
//     answered again and never handed on again, a different message never passes for one (COAP-4).
//   - A body sent in blocks is complete or refused, whatever tokens the device uses and however
//     slowly it sends (COAP-24).
//   - A source outside the allow-list is not even parsed. Nobody gets in with a wrong key, and a
//     device that rebooted is not kept out by its old session (COAP-105).
//   - Memory and goroutines are bounded, whatever a peer sends. No device can keep another from
//     being answered.
//   - A key is never printed.
//
// Of go-coap it uses the socket, the codec and the codes, not the servers: those parse before
// they filter, hold a goroutine a source, close a session on a malformed datagram and put blocks
// together by token (COAP-90 to COAP-97). The steps that COAP-110 puts in front of them stand in
// gate.go.
package coap
