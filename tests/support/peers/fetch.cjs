// Node's fetch where Node itself does not read the proxy variables, as before 22.21: undici, which
// fetch is made of, is given the proxy.
const { ProxyAgent, setGlobalDispatcher, fetch } = require('undici')

setGlobalDispatcher(new ProxyAgent(process.env.HTTPS_PROXY))
fetch(process.argv[2]).then(async (response) => process.stdout.write(await response.text()))
