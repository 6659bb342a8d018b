// A node process at work: an HTTP server and its clients, timers, worker threads, crypto.
// First line: {"pid": P}.  Answers each line on standard input with {"work": N, "errors": [...]}.
const crypto = require('crypto');
const http = require('http');
const readline = require('readline');
const { Worker } = require('worker_threads');

const socketPath = process.argv[2];
const errors = [];
let work = 0;

process.on('uncaughtException', (error) => errors.push(String(error)));

const body = crypto.randomBytes(50_000);
const server = http.createServer((request, response) => {
  request.on('data', () => {});
  request.on('end', () => response.end(body));
});

function client() {
  const request = http.request({ socketPath, method: 'POST', timeout: 60_000 }, (response) => {
    const parts = [];
    response.on('data', (part) => parts.push(part));
    response.on('end', () => {
      if (!Buffer.concat(parts).equals(body)) errors.push('another body');
      work++;
      setImmediate(client);
    });
  });
  request.on('error', (error) => errors.push(String(error)));
  request.on('timeout', () => errors.push('timeout'));
  request.end('hello');
}

function hash() {
  crypto.pbkdf2('secret', 'salt', 1000, 64, 'sha512', (error) => {
    if (error) errors.push(String(error));
    work++;
    setTimeout(hash, 1);
  });
}

const spin = `
  const { parentPort } = require('worker_threads');
  parentPort.on('message', (n) => {
    let sum = 0;
    for (let i = 0; i < 1e5; i++) sum += i;
    parentPort.postMessage(sum);
  });`;

for (let i = 0; i < 2; i++) {
  const worker = new Worker(spin, { eval: true });
  worker.on('message', (sum) => {
    if (sum !== 4999950000) errors.push('wrong sum');
    work++;
    worker.postMessage(1);
  });
  worker.on('error', (error) => errors.push(String(error)));
  worker.postMessage(1);
}

server.listen(socketPath, () => {
  client();
  client();
  hash();
  console.log(JSON.stringify({ pid: process.pid }));
});
const input = readline.createInterface({ input: process.stdin });
input.on('line', () => console.log(JSON.stringify({ work, errors })));
input.on('close', () => process.exit(0));
