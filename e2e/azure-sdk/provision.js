// node provision.js CONFIG: a device that knows its id scope asks the provisioning service for its hub, with
// Microsoft's SDK as it comes from npm, then connects there and sends a message. It prints one JSON line: the
// outcome, or {"error":"..."}.
//
// CONFIG is a JSON object: transport (Mqtt or MqttWs), host, scope, id, payload, and one of key, groupKey, or
// cert and certKey (PEM); send (a body, none to only ask), ca (PEM).
'use strict'

const crypto = require('crypto')
const { ProvisioningDeviceClient } = require('azure-iot-provisioning-device')
const provisioning = require('azure-iot-provisioning-device-mqtt')
const { SymmetricKeySecurityClient } = require('azure-iot-security-symmetric-key')
const { X509Security } = require('azure-iot-security-x509')
const { Client, Message } = require('azure-iot-device')
const transports = require('azure-iot-device-mqtt')

const config = JSON.parse(process.argv[2])
const x509 = config.cert && { cert: config.cert, key: config.certKey }

// derived is the key of a device of a group.
function derived () {
  return crypto.createHmac('SHA256', Buffer.from(config.groupKey, 'base64')).update(config.id, 'utf8').digest('base64')
}

async function run () {
  const key = config.groupKey ? derived() : config.key
  const security = x509 ? new X509Security(config.id, x509) : new SymmetricKeySecurityClient(config.id, key)
  const client = ProvisioningDeviceClient.create(config.host, config.scope, new provisioning[config.transport](), security)
  if (config.payload) client.setProvisioningPayload(config.payload)
  const state = await client.register()
  if (config.send) await send(state, key)
  return state
}

async function send (state, key) {
  const proof = x509 ? 'x509=true' : `SharedAccessKey=${key}`
  const string = `HostName=${state.assignedHub};DeviceId=${state.deviceId};${proof}`
  const device = Client.fromConnectionString(string, transports[config.transport])
  await device.setOptions({ ca: config.ca, ...x509 })
  await device.open()
  await device.sendEvent(new Message(config.send))
  await device.close()
}

run().then(
  (state) => console.log(JSON.stringify(state)),
  (error) => console.log(JSON.stringify({ error: String(error) }))
).finally(() => process.exit())
