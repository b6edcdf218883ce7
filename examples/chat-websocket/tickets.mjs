// A backend that knows its users: it serves the page, and gives each of them a ticket to the rooms that they may enter. The
// key that it holds, with role "owner" and sessions = ["*"], never leaves it.
//
//   RELAYSTREAM_KEY=… node tickets.mjs        and RELAYSTREAM, PAGES, PORT if they are not the usual ones

import { readFile } from 'node:fs/promises';
import http from 'node:http';

const { RELAYSTREAM_KEY: key, RELAYSTREAM: server = 'http://127.0.0.1:8080', PORT: port = '3000' } = process.env;
const TYPES = { html: 'text/html', js: 'text/javascript', css: 'text/css' };
// Yours: a database of users, a session cookie. Here the browser asks for a name and a password by itself.
const USERS = {
  ada: { password: 'lovelace', name: 'Ada', role: 'owner' },
  bo: { password: 'diddley', name: 'Bo', role: 'member' },
  cleo: { password: 'asp', name: 'Cléo', role: 'member' },
  vera: { password: 'watches', name: 'Vera', role: 'viewer' },
};

function whoAsks({ headers: { authorization = '' } }) {
  const [user, password] = Buffer.from(authorization.replace('Basic ', ''), 'base64').toString().split(':');
  return Object.hasOwn(USERS, user) && USERS[user].password === password ? { user, ...USERS[user] } : null;
}

async function ticket(request, { user, name, role }) {
  const { session } = JSON.parse(await new Response(request).text());
  return fetch(`${server}/v1/tickets`, {
    method: 'POST',
    headers: { authorization: `Bearer ${key}`, 'content-type': 'application/json' },
    body: JSON.stringify({ session, user, name, role, ttl_s: 60 }),
  });
}

http.createServer(async (request, answer) => {
  const asks = whoAsks(request);
  if (!asks) return answer.writeHead(401, { 'www-authenticate': 'Basic realm="rooms"' }).end();
  const { pathname, search } = new URL(request.url, 'http://localhost');
  try {
    if (request.method === 'POST' && pathname === '/tickets') {
      const issued = await ticket(request, asks);
      return answer.writeHead(issued.status, { 'content-type': 'application/json', 'cache-control': 'no-store' }).end(await issued.text());
    }
    if (pathname === '/' && !search) return answer.writeHead(302, { location: `/?${new URLSearchParams({ server, tickets: '/tickets' })}` }).end();
    const file = pathname === '/' ? 'index.html' : pathname.match(/^\/(\w+\.(?:js|css))$/)?.[1];
    const page = await readFile(new URL(file ?? 'nothing', import.meta.url));
    answer.writeHead(200, { 'content-type': TYPES[file.split('.').pop()] }).end(page);
  } catch (error) {
    answer.writeHead(error.code === 'ENOENT' ? 404 : 502).end();
  }
}).listen(Number(port), '127.0.0.1', () => console.log(`http://127.0.0.1:${port}`));
