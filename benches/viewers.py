"""Viewers that cut their connections and come back: one for each of the two ways to name a position. They keep what
arrived with its time, and work nothing out while the clock runs; that is done from their `Seen` afterwards."""

import asyncio
import bisect
import json
import re
import time
from urllib.parse import urlsplit

STAMP = re.compile(rb"@(\d{16})")
# An event that names a position, whole.
EVENT_WITH_ID = re.compile(rb"^id: (\S+)\n(?:[^\n]+\n)*\n", re.MULTILINE)


class Connection(asyncio.Protocol):
    """One request and all of its answer. HTTP/1.0: the body is what comes until the server closes."""

    def __init__(self, request):
        loop = asyncio.get_running_loop()
        self.request, self.asked = request, time.time()
        self.opened, self.ended = loop.create_future(), loop.create_future()
        self.head, self.status, self.parts = b"", 0, []

    @classmethod
    async def open(cls, url, method, path, headers=(), body=b""):
        where = urlsplit(url)
        lines = [f"{method} {path} HTTP/1.0", f"host: {where.netloc}", *headers, f"content-length: {len(body)}", "", ""]
        connection = cls("\r\n".join(lines).encode() + body)
        await asyncio.get_running_loop().create_connection(lambda: connection, where.hostname, where.port)
        await connection.opened
        return connection

    def connection_made(self, transport):
        self.transport = transport
        transport.write(self.request)

    def data_received(self, data):
        if not self.status:
            self.head += data
            head, end, data = self.head.partition(b"\r\n\r\n")
            if not end:
                return
            self.head, self.status = head.decode().lower(), int(head.split()[1])
            self.opened.set_result(None)
        if data:
            self.parts.append((time.time(), data))

    def connection_lost(self, error):
        if not self.opened.done():
            self.opened.set_exception(ConnectionError("closed before its answer"))
        self.ended.set_result(None)

    def header(self, name):
        return re.search(rf"^{name}: (\S+)", self.head, re.MULTILINE)[1]

    def body(self):
        return b"".join(data for _, data in self.parts)

    def tokens(self):
        """Each token's stamp and when it arrived, in seconds since the epoch."""
        ends, length = [], 0
        for _, data in self.parts:
            length += len(data)
            ends.append(length)
        for match in STAMP.finditer(self.body()):
            yield int(match[1]) / 1e6, self.parts[bisect.bisect_left(ends, match.end())][0]


class Viewer:
    """Starts or joins a stream, and reads it over as many connections as it takes."""

    def __init__(self, stream=None):
        self.stream, self.connections, self.kept = stream, [], b""

    async def start(self, server, model):
        ask = {"model": model, "stream": True, "stream_options": {"include_usage": True}}
        body = json.dumps({**ask, "messages": [{"role": "user", "content": "bench"}]}).encode()
        headers = ["content-type: application/json"]
        connection = await Connection.open(server.url, "POST", "/v1/chat/completions", headers, body)
        if connection.status != 200:
            raise SystemExit(f"{server.name} did not start a stream: status {connection.status}")
        self.stream = connection.header("x-stream-id")
        self.connections.append(connection)
        return connection

    async def resume(self, server):
        """From where it is, which for one that has nothing yet is the beginning."""
        path, headers = self.position()
        connection = await Connection.open(server.url, "GET", path, headers)
        self.connections.append(connection)
        return connection

    def leave(self):
        """Cuts the connection if it still stands, and keeps of it what a later one will not bring again."""
        connection = self.connections[-1]
        connection.transport.abort()
        if connection.status == 200:
            self.kept += self.keep(connection.body())

    async def watch(self, server, model, cuts):
        """A whole stream. Each cut: how long to watch before it, and how long to stay away."""
        connection = await self.start(server, model)
        for watched, away in cuts:
            await asyncio.wait({connection.ended}, timeout=watched)
            self.leave()
            await asyncio.sleep(away)
            connection = await self.resume(server)
        await connection.ended
        self.leave()
        return self

    @property
    def done(self):
        return b"data: [DONE]" in self.kept

    def text(self):
        """What the model said, as a client would put it together."""
        data = [line[6:] for line in self.kept.split(b"\n") if line.startswith(b"data: {")]
        return "".join(choice["delta"].get("content") or "" for line in data for choice in json.loads(line)["choices"])

    def complete(self, tokens):
        """Whether it has that many tokens in order, nothing else, and the end. Each token is the microsecond at which it was
        said; a late upstream may say two in the same one, so that what shows a doubled or lost token is the count."""
        text = self.text()
        stamps = re.findall(r" @(\d{16})", text)
        return self.done and len(stamps) == tokens and len(text) == 18 * tokens and stamps == sorted(stamps)

    def twice(self, moment):
        """Tokens that came again after others, or where one node took over from another at that moment."""
        stamps = [int(stamp) for stamp in STAMP.findall(self.kept)]
        before = [stamp for stamp in stamps if stamp <= moment * 1e6]
        return sum(a > b for a, b in zip(stamps, stamps[1:])) + (len(before) > 1 and before[-1] == before[-2])


class RelaystreamViewer(Viewer):
    """Comes back with the id of the last whole event that had one."""

    last = None

    def position(self):
        path = f"/v1/streams/{self.stream}/events?format=openai-chat"
        return path, [f"last-event-id: {self.last}"] if self.last else []

    def keep(self, body):
        whole = None
        for whole in EVENT_WITH_ID.finditer(body):
            pass
        if not whole:
            return b""
        self.last = whole[1].decode()
        return body[: whole.end()]


class ResumableStreamViewer(Viewer):
    """Comes back with the number of characters that it has; all of this upstream's are one byte long."""

    def position(self):
        return f"/streams/{self.stream}?resumeAt={len(self.kept)}", []

    def keep(self, body):
        return body


class Seen:
    """What viewers went through, once they are done."""

    def __init__(self, viewers, tokens):
        self.viewers, self.tokens = viewers, tokens

    def whole(self):
        """Viewers that have every token once and in order, nothing else, and were told the end."""
        return sum(viewer.complete(self.tokens) for viewer in self.viewers)

    def bytes(self):
        return sum(len(data) for viewer in self.viewers for each in viewer.connections for _, data in each.parts)

    def lags(self):
        """Of the tokens on first connections: from the upstream's clock to ours."""
        return [arrived - said for viewer in self.viewers for said, arrived in viewer.connections[0].tokens()]

    def resumes(self):
        """Resumes that were answered: seconds to the first byte, and to the last of the tokens that had been said when it was
        asked for; and how many were not answered."""
        first, caught_up, refused = [], [], 0
        for connection in (each for viewer in self.viewers for each in viewer.connections[1:]):
            if connection.status != 200 or not connection.parts:
                refused += 1
                continue
            first.append(connection.parts[0][0] - connection.asked)
            missed = [arrived for said, arrived in connection.tokens() if said <= connection.asked]
            if missed:
                caught_up.append(missed[-1] - connection.asked)
        return first, caught_up, refused
