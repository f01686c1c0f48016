// node edge.js BODY: a module of IoT Edge that knows nothing but its environment, on Microsoft's SDK as it comes
// from npm. It reads its twin, sends BODY to the output alert, and prints {"desired":{...}} or {"error":"..."}.
'use strict'

const { ModuleClient, Message } = require('azure-iot-device')
const { Mqtt } = require('azure-iot-device-mqtt')

async function run () {
  const client = await ModuleClient.fromEnvironment(Mqtt)
  await client.open()
  const twin = await client.getTwin()
  await client.sendOutputEvent('alert', new Message(process.argv[2]))
  await client.close()
  return { desired: twin.properties.desired }
}

run().then(
  (done) => console.log(JSON.stringify(done)),
  (error) => console.log(JSON.stringify({ error: String(error) }))
).finally(() => process.exit())
