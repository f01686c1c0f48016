// node device.js CONFIG: one device or module on Microsoft's SDK for Node, as it comes from npm. It obeys
// the JSON lines on its standard input and says on its standard output, in JSON lines, what became of each
// and what the hub sent:
//
//   {"id":1,"op":"send","body":"x"}   ->  {"id":1}, {"id":1,"result":...} or {"id":1,"error":"..."}
//                                         {"event":"method","name":"reboot","payload":{}}
//
// CONFIG is a JSON object: transport (Mqtt or MqttWs), ca (PEM), and either connectionString, or host,
// device, module, cert and key (PEM) for X.509; renewal (seconds: valid, margin) changes when tokens are
// renewed.
'use strict'

const readline = require('readline')
const { Client, ModuleClient, Message, X509AuthenticationProvider } = require('azure-iot-device')
const transports = require('azure-iot-device-mqtt')

const config = JSON.parse(process.argv[2])
const say = (line) => console.log(JSON.stringify(line))
const client = open()
let twin

function open () {
  const transport = transports[config.transport]
  const kind = config.module ? ModuleClient : Client
  if (config.connectionString) return kind.fromConnectionString(config.connectionString, transport)
  const provider = new X509AuthenticationProvider({
    host: config.host, deviceId: config.device, moduleId: config.module, x509: { cert: config.cert, key: config.key }
  })
  return kind.fromAuthenticationProvider(provider, transport)
}

function message (line) {
  const m = new Message(line.body)
  Object.assign(m, line.system)
  for (const [name, value] of Object.entries(line.properties || {})) m.properties.add(name, value)
  return m
}

const operations = {
  async open () {
    const options = { ca: config.ca }
    if (config.renewal) {
      options.tokenRenewal = {
        tokenValidTimeInSeconds: config.renewal.valid, tokenRenewalMarginInSeconds: config.renewal.margin
      }
    }
    await client.setOptions(options)
    client.on('connect', () => say({ event: 'connect' }))
    client.on('disconnect', (why) => say({ event: 'disconnect', error: String((why && why.err) || why) }))
    client.on('error', (error) => say({ event: 'error', error: String(error) }))
    await client.open()
  },

  send: (line) => client.sendEvent(message(line)),

  output: (line) => client.sendOutputEvent(line.name, message(line)),

  async twin () {
    const first = !twin
    twin = await client.getTwin()
    if (first) {
      twin.on('properties.desired', (delta) => say({ event: 'desired', payload: delta }))
    }
    return { desired: twin.properties.desired, reported: twin.properties.reported }
  },

  report: (line) => new Promise((resolve, reject) => {
    twin.properties.reported.update(line.patch, (error) => error ? reject(error) : resolve())
  }),

  // The method answers status and what it was called with.
  method (line) {
    client[config.module ? 'onMethod' : 'onDeviceMethod'](line.name, (request, response) => {
      say({ event: 'method', name: request.methodName, payload: request.payload })
      response.send(line.status, { called: request.payload }, (error) => {
        if (error) say({ event: 'error', error: String(error) })
      })
    })
  },

  messages () {
    client.on('message', (m) => {
      const properties = {}
      for (const p of m.properties.propertyList) properties[p.key] = p.value
      say({ event: 'message', body: m.getData().toString(), messageId: m.messageId, properties })
      client.complete(m, (error) => say({ event: 'completed', error: error && String(error) }))
    })
  },

  close: () => client.close()
}

readline.createInterface({ input: process.stdin }).on('line', async (text) => {
  const line = JSON.parse(text)
  try {
    const result = await operations[line.op](line)
    say({ id: line.id, result: line.op === 'twin' ? result : undefined })
  } catch (error) {
    say({ id: line.id, error: String(error) })
  }
}).on('close', () => process.exit())
