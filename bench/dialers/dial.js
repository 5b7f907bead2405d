// One side of a pair: for each line on stdin, time a block of net.connect to a listener of its own, and print seconds.
'use strict'
const net = require('net')
const readline = require('readline')

const BLOCK = 200
const port = Number(process.argv[2])
const server = net.createServer((accepted) => accepted.on('error', () => {}))

function dial () {
  return new Promise((resolve, reject) => {
    const start = process.hrtime.bigint()
    const socket = net.connect({ host: '127.0.0.1', port })
    socket.once('error', reject)
    socket.once('connect', () => {
      const spent = Number(process.hrtime.bigint() - start) / 1e9
      socket.once('close', () => resolve(spent))
      socket.resetAndDestroy ? socket.resetAndDestroy() : socket.destroy()
    })
  })
}

server.listen(port, '127.0.0.1', async () => {
  for await (const _ of readline.createInterface({ input: process.stdin })) {
    const spent = []
    for (let i = 0; i < BLOCK; i++) spent.push(await dial())
    spent.sort((a, b) => a - b)
    console.log(spent[BLOCK / 2])
  }
  process.exit(0)
})
