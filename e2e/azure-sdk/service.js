// node service.js: an application on Microsoft's service SDK for Node, as it comes from
// npm. It obeys the JSON lines on its standard input and says on its standard output, in JSON lines, what
// became of each:
//
//   {"id":0,"op":"become","connectionString":"HostName=..."}: whose token it uses from now on
//   {"id":1,"op":"registry","call":"create","args":[{"deviceId":"d1"}]}  ->  {"id":1,"result":{...}}
//                                    or {"id":1,"error":"DeviceAlreadyExistsError 409 ...","result":BODY}
//   {"id":2,"op":"query","sql":"SELECT * FROM devices","size":10}  ->  {"id":2,"result":[[...],[...]]}: pages
//   {"id":3,"op":"twin","device":"d1","module":"m1","patch":{...}}  ->  Twin.update, with the etag it was read with
//   {"id":4,"op":"method","device":"d1","module":"m1","params":{"methodName":"reboot"}}
//
// registry makes any call of a Registry.
'use strict'

const readline = require('readline')
const { Registry, Client } = require('azure-iothub')

let registry, client
const twins = {}

const operations = {
  async become (line) {
    registry = Registry.fromConnectionString(line.connectionString)
    client = Client.fromConnectionString(line.connectionString)
  },

  registry: async (line) => plain(await registry[line.call](...line.args)),

  async query (line) {
    const query = registry.createQuery(line.sql, line.size)
    const pages = []
    while (query.hasMoreResults) {
      pages.push(plain(line.raw ? await query.next(query.continuationToken) : await query.nextAsTwin()))
    }
    return pages
  },

  // A twin is read once and kept: another's change in between is a conflict.
  async twin (line) {
    const key = line.device + '/' + (line.module || '')
    if (!twins[key]) {
      const read = line.module ? registry.getModuleTwin(line.device, line.module) : registry.getTwin(line.device)
      const result = await read
      twins[key] = result.responseBody || result.result
    }
    if (line.patch) await twins[key].update(line.patch)
    return plain(twins[key])
  },

  async method (line) {
    const call = line.module
      ? client.invokeDeviceMethod(line.device, line.module, line.params)
      : client.invokeDeviceMethod(line.device, line.params)
    return plain(await call)
  }
}

// plain is a result without the HTTP response that came with it.
function plain (result) {
  let body = result
  if (result && 'responseBody' in result) body = result.responseBody
  else if (result && 'result' in result) body = result.result
  return JSON.parse(JSON.stringify(body === undefined ? null : body))
}

readline.createInterface({ input: process.stdin }).on('line', async (text) => {
  const line = JSON.parse(text)
  try {
    console.log(JSON.stringify({ id: line.id, result: await operations[line.op](line) }))
  } catch (error) {
    const status = (error.response && error.response.statusCode) || 0
    console.log(JSON.stringify({ id: line.id, error: [error.name, status, error.message].join(' '), result: error.responseBody }))
  }
}).on('close', () => process.exit())
