// Package hubsim is an Azure IoT Hub on localhost: MQTT 3.1.1 over TLS and over WebSocket for devices
// and modules, and as much of the service REST side as a test needs, and beside it, on the same addresses, a
// Device Provisioning Service.
//
// The promise: it behaves towards a client as the real hub does where that is known (clauses CON-, SAS-,
// WILL-, D2C-, C2D-, TWIN-, METH-, THR-, CLOSE- and DPS- of the hub contract), it is strict where the real hub
// hangs up, and it says in one log line what the client did wrong. A PUBACK means that the message is
// stored; with a Dir it means that the message is on disk and survives kill -9 and power loss. So do
// devices, twins, kept sessions with their subscriptions, and cloud-to-device messages until a device has
// acknowledged them. PUBACKs come in the order of the publishes. It shares no code with the gateway that
// it judges.
//
// # Azure's own REST paths
//
// They want "Authorization: SharedAccessSignature ..." of a shared access policy and an api-version.
//
//	GET  /devices?top=N                             the first devices by name, 1000 if not given
//	POST /devices                                   create, change or delete up to 100 devices and modules (SVC-11)
//	GET, PUT, DELETE /devices/{device}              a registry entry; PUT creates, with If-Match it changes (SVC-8)
//	GET  /devices/{device}/modules
//	GET, PUT, DELETE /devices/{device}/modules/{module}
//	POST /devices/query                             a page of twins that a query selects (SVC-20)
//	GET  /statistics/devices, /statistics/service   how many there are, and how many are connected (SVC-14)
//	GET, PATCH, PUT /twins/{device}                 read, merge into or replace a twin; If-Match is honoured
//	GET, PATCH, PUT /twins/{device}/modules/{module}
//	POST /twins/{device}/methods                    call a direct method (METH-12)
//	POST /twins/{device}/modules/{module}/methods
//	DELETE /devices/{device}/commands               drop the cloud-to-device messages that wait (C2D-30)
//	/jobs, /configurations, /digitaltwins           501: they are not simulated
//	GET  /$iothub/websocket                         MQTT over WebSocket, sub-protocol mqtt (CON-9)
//
// # The provisioning service's own REST paths
//
// They want a token of the hub's policies (RegistryRead or RegistryWrite) and an api-version. Errors have
// the provisioning service's form {"errorCode","trackingId","message","timestampUtc"}.
//
//	GET, PUT, DELETE /enrollments/{id}              an individual Enrollment; If-Match is honoured
//	GET, PUT, DELETE /enrollmentGroups/{id}         an Enrollment of a group
//	POST /enrollments/{id}/attestationmechanism     its Attestation with the keys, which the others leave out
//	POST /enrollmentGroups/{id}/attestationmechanism
//	POST /enrollments/query                         all of them, in pages (x-ms-max-item-count, x-ms-continuation)
//	POST /enrollmentGroups/query
//	GET, DELETE /registrations/{id}                 the RegistrationState of a device: where it was assigned
//	POST /registrations/{group}/query               those of a group's devices
//
// # Paths that Azure does not have
//
// They want the same Authorization, but no api-version; ca.pem wants neither.
//
//	GET  /hubsim/messages?after=N&max=N             stored messages, a JSON array of Message; max is 1000 if not given;
//	                                                device=ID, module=ID and property=NAME or NAME=VALUE select some
//	GET  /hubsim/messages/stream?after=N            stored messages, then live ones, as server-sent events; after=now
//	                                                is live ones only; the event's id is the sequence, Last-Event-ID
//	                                                is honoured; selected as above; with kind=connection, twin, device,
//	                                                method or all also a ConnectionEvent, TwinEvent, DeviceEvent or
//	                                                MethodEvent as it happens, under event: and without an id
//	GET  /hubsim/events?after=N                     the newest connection events, a JSON array of ConnectionEvent
//	GET  /hubsim/devices                            JSON array: deviceId, moduleId, connected, messages, lastActivity
//	PUT  /hubsim/devices/{device}                   register; answers {"deviceId","moduleId"} and the Credential;
//	PUT  /hubsim/devices/{device}/modules/{module}  a body with fields of Credential sets it, "status" is
//	                                                "enabled" or "disabled"
//	DELETE /hubsim/devices/{device}                 delete it, for a device with its modules
//	DELETE /hubsim/devices/{device}/modules/{module}
//	POST /hubsim/authorities                        a body in PEM: authorities of devices registered with x509ca
//	POST /hubsim/devices/{device}/messages          send a cloud-to-device message: a CloudMessage, or with a
//	                                                JSON "body" in place of bodyBase64; answers {"messageId"}
//	GET  /hubsim/devices/{device}/deadletters       JSON array of DeadLetter
//	GET  /hubsim/feedback?after=N                   JSON array of Feedback
//	GET  /hubsim/provisioning                       {"idScope","host","hubs"}: what the provisioning service is called,
//	                                                where devices find it, and what enrolments may call hubs
//	POST /hubsim/linkedhubs                         a LinkedHub: another hub to which devices may be assigned
//	GET  /hubsim/policies                           JSON array: the shared access policies with their keys
//	POST /hubsim/faults                             one Faults object: the dials
//	GET  /hubsim/ca.pem                             the certificate authority to trust
package hubsim
