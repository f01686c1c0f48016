// NODE_OPTIONS='--require ./ports.js': the SDK connects to the ports 8883 and 443 of its hub's name, whatever the
// configuration says. This sends such connections to HUB_MQTT and HUB_HTTPS (host:port) instead; the name
// is still what the certificate is checked against.
'use strict'

const tls = require('tls')

const elsewhere = { 8883: process.env.HUB_MQTT, 443: process.env.HUB_HTTPS }
const connect = tls.connect

tls.connect = function (options, ...rest) {
  const target = elsewhere[options.port]
  if (!target) return connect.call(tls, options, ...rest)
  const [host, port] = target.split(':')
  const name = options.servername || options.host
  return connect.call(tls, { ...options, host, port: Number(port), servername: name }, ...rest)
}
