// node post.js PORT PATH FIRST COUNT RECORDS: POSTs COUNT reports, numbered from FIRST, of RECORDS SenML records each, one after the
// other, over CoAP and prints the code of every answer. The record "n" is the number of the report. What
// does not fit one datagram goes in blocks of 256 bytes.
'use strict'

const coap = require('coap')

const [port, path, first, count, records] = process.argv.slice(2)

function report (n) {
  const all = []
  for (let i = 1; i < Number(records); i++) all.push({ n: 'filler-' + i, v: i })
  all.push({ n: 'n', v: n })
  return JSON.stringify(all)
}

function post (n) {
  const request = coap.request({ hostname: '127.0.0.1', port: Number(port), pathname: path, method: 'POST', confirmable: true })
  const body = report(n)
  request.setOption('Content-Format', 'application/senml+json')
  if (body.length > 1024) request.setOption('Block1', Buffer.of(0x4))
  request.on('response', (response) => {
    console.log(response.code)
    response.resume()
    if (n < Number(first) + Number(count) - 1) setImmediate(post, n + 1) // the client first has to let go of its socket
  })
  request.on('error', (error) => {
    console.error(String(error))
    process.exitCode = 1
  })
  request.end(body)
}

post(Number(first))
