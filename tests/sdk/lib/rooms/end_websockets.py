"""PyPI `websockets` as an end of lib/rooms/sockets.mjs: a command a line on stdin, what came of it a line on stdout. Ends with its stdin."""

import asyncio
import json
import sys

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

sockets = {}
running = set()


def tell(n, told, **what):
    sys.stdout.write(json.dumps({"n": n, "told": told, **what}) + "\n")
    sys.stdout.flush()


async def read(n, url, protocols, headers=None, options=None):
    options = {"ping_interval": None, **(options or {})}
    try:
        socket = await connect(url, subprotocols=protocols, additional_headers=headers, proxy=None, **options)
    except Exception as why:
        status = {"status": why.response.status_code} if isinstance(why, InvalidStatus) else {}
        tell(n, "refused", **status)
        tell(n, "closed", code=1006, reason="")
        return
    sockets[n] = socket
    extensions = ", ".join(extension.name for extension in socket.protocol.extensions)
    tell(n, "open", protocol=socket.subprotocol or "", extensions=extensions)
    try:
        async for message in socket:
            tell(n, "message", text=message)
    except ConnectionClosed:
        pass
    if socket.latency:  # set by the answer to a keepalive of its own
        tell(n, "pong", text="beat")
    tell(n, "closed", code=socket.close_code, reason=socket.close_reason)


async def ping(n, text):
    await (await sockets[n].ping(text))
    tell(n, "pong", text=text)


async def quietly(doing):
    try:
        await doing
    except ConnectionClosed:
        pass


def in_the_background(doing):
    task = asyncio.create_task(quietly(doing))
    running.add(task)
    task.add_done_callback(running.discard)


async def obey(n, verb, what):
    if verb == "open":
        in_the_background(read(n, **what))
    elif n not in sockets:
        return
    elif verb == "send":
        await quietly(sockets[n].send(what))  # a list is sent in fragments
    elif verb == "bytes":
        await quietly(sockets[n].send(what.encode()))
    elif verb == "ping":
        in_the_background(ping(n, what))
    elif verb == "close":
        in_the_background(sockets[n].close(*what))


async def main():
    commands = asyncio.StreamReader(limit=2**22)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    while line := await commands.readline():
        command = json.loads(line)
        n = command.pop("n")
        [(verb, what)] = command.items()
        await obey(n, verb, what)
    for socket in sockets.values():
        socket.transport.abort()


asyncio.run(main())
