// node:https through a tunnel, with nothing but what Node itself has.
const http = require('node:http')
const https = require('node:https')
const tls = require('node:tls')

const url = new URL(process.argv[2])
const proxy = new URL(process.env.HTTPS_PROXY)
const path = `${url.hostname}:${url.port || 443}`
http.request({ host: proxy.hostname, port: proxy.port, method: 'CONNECT', path })
  .on('connect', (answer, socket) => {
    if (answer.statusCode !== 200) throw new Error(`${answer.statusCode} ${answer.statusMessage}`)
    const createConnection = () => tls.connect({ socket, servername: url.hostname })
    https.get(url, { createConnection }, (response) => response.pipe(process.stdout))
  })
  .end()
