# SPDX-License-Identifier: GPL-2.0-only
"""Ends of a conversation that no tool plays.

    peer.py storm ADDRESS PORT COUNT [server]   COUNT TCP connections to an HTTP server, as fast as they go,
                                                each from a port of its own; the client hangs up
                                                first, or the server
    peer.py hold ADDRESS PORT COUNT             COUNT TCP connections at one time, to a server of lines
    peer.py lines NAME PORT                     that server: it says its name, then echoes each line
    peer.py many NAME PORT                      the same for thousands of connections
    peer.py talk ADDRESS PORT COUNT             COUNT TCP connections at one time to such servers, which carry
                                                data all the time. It obeys lines: `leave NAME` closes
                                                those to this server and opens as many new ones, `news
                                                COUNT` opens some and says how many each server got,
                                                `rounds N` waits until each has carried N more lines,
                                                `stop now` ends it. To each it answers in JSON, and says
                                                what went wrong so far
    peer.py ask ADDRESS PORT SOCKETS COUNT SIZE COUNT datagrams of SIZE octets from each of so many
                                                sockets; each must come back before the next one goes
    peer.py echo PORT                           a UDP server that sends them back

The exit status is 0 if all went well.
"""
import asyncio
import collections
import contextlib
import errno
import json
import os
import random
import select
import socket
import socketserver
import sys

PARALLEL = 100  # connections at a time
PORTS = range(5000, 65536)
PATIENCE = 10 * int(os.environ.get("SLOWER", "1"))  # seconds; a SYN that was lost is sent again after 1, 3, 7
PAUSE = float(os.environ.get("PAUSE", "0.4"))  # seconds at most, between two lines of a talk


class Storm:
    """Opens connections as fast as they go, asks something over each, and closes it."""

    def __init__(self, address, port, request):
        found = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0]
        self.family, self.peer = found[0], found[4]
        self.request = request
        self.ports = iter(PORTS)
        self.poll = select.epoll()
        self.live = {}
        self.results = collections.Counter()

    def run(self, count):
        for _ in range(min(PARALLEL, count)):
            self.open()
        left = count - len(self.live)
        while self.live:
            events = self.poll.poll(PATIENCE)
            if not events:
                self.results["no answer"] += len(self.live)
                break
            for number, event in events:
                if self.goes_on(number, event):
                    continue
                self.poll.unregister(number)
                self.live.pop(number).close()
                if left:
                    left -= 1
                    self.open()
        return self.results

    def open(self):
        """From the next port that is free; others may have some, or the kernel remembers a use."""
        one = None
        while one is None:
            port = next(self.ports, None)
            if port is None:
                sys.exit("there are not so many source ports")
            one = self.connect(port)
        self.live[one.fileno()] = one
        self.poll.register(one, select.EPOLLOUT)

    def connect(self, port):
        one = socket.socket(self.family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            one.bind(("", port))
            one.connect(self.peer)
        except BlockingIOError:
            return one
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EADDRNOTAVAIL):
                raise
        one.close()
        return None

    def goes_on(self, number, event):
        """Whether more is to come over this connection; if not, its result is noted."""
        one = self.live[number]
        try:
            if event & select.EPOLLOUT and not event & select.EPOLLERR:
                one.send(self.request)
                self.poll.modify(one, select.EPOLLIN)
                return True
            answer = one.recv(4096)
            self.results["ok" if answer.startswith(b"HTTP/1.1 200") else "wrong answer"] += 1
        except OSError as error:
            self.results[error.strerror] += 1
        return False


def storm(address, port, count, who="client"):
    header = "close" if who == "server" else "keep-alive"
    request = f"GET / HTTP/1.1\r\nHost: storm\r\nConnection: {header}\r\n\r\n".encode()
    results = Storm(address, port, request).run(int(count))
    print(dict(results))
    return results == {"ok": int(count)}


def hold(address, port, count):
    with contextlib.ExitStack() as held:
        for _ in range(int(count)):
            one = held.enter_context(socket.create_connection((address, port), PATIENCE))
            assert one.recv(100)
    return True


def echo(port):
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as server:
        server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        server.bind(("::", int(port)))
        while True:
            data, peer = server.recvfrom(65536)
            server.sendto(data, peer)


class Lines(socketserver.StreamRequestHandler):
    def handle(self):
        self.wfile.write(self.server.name)
        for line in self.rfile:
            self.wfile.write(line)


class LinesServer(socketserver.ThreadingTCPServer):
    address_family = socket.AF_INET6
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 100


def lines(name, port):
    with LinesServer(("::", int(port)), Lines) as server:
        server.name = f"{name}\n".encode()
        server.serve_forever()


# --- Many connections that carry data all the time ---


async def answer_lines(name, reader, writer):
    with contextlib.suppress(OSError):
        writer.write(name)
        while line := await reader.readline():
            writer.write(line)
            await writer.drain()
    writer.close()


async def serve_many(name, port):
    server = await asyncio.start_server(
        lambda reader, writer: answer_lines(name, reader, writer), None, port, limit=1 << 16, backlog=4096
    )
    async with server:
        await server.serve_forever()


def many(name, port):
    asyncio.run(serve_many(f"{name}\n".encode(), int(port)))


class Talk:
    """One connection."""

    def __init__(self, wrong):
        self.wrong = wrong
        self.server, self.rounds, self.is_over = None, 0, False
        self.task = None

    async def run(self, address, port):
        try:
            reader, writer = await asyncio.open_connection(address, port, limit=1 << 16)
            self.server = (await reader.readline()).decode().strip()
            while not self.is_over:
                line = os.urandom(random.randrange(1, 2000)).hex().encode() + b"\n"
                writer.write(line)
                back = await asyncio.wait_for(reader.readline(), 3 * PATIENCE)
                if back != line:
                    self.wrong["cut" if line.startswith(back) else "wrong"] += 1
                    return
                self.rounds += 1
                await asyncio.sleep(random.uniform(0.2, 1) * PAUSE)
            writer.close()
            await writer.wait_closed()
        except (OSError, asyncio.TimeoutError) as error:
            self.wrong[type(error).__name__] += 1


class Crowd:
    def __init__(self, address, port):
        self.end = address, port
        self.wrong = collections.Counter()
        self.talks = []

    async def open(self, count):
        new = [Talk(self.wrong) for _ in range(count)]
        for talk in new:
            talk.task = asyncio.create_task(talk.run(*self.end))
        while any(talk.rounds == 0 and not talk.task.done() for talk in new):
            await asyncio.sleep(0.05)
        self.talks += new
        return dict(collections.Counter(talk.server for talk in new))

    async def close(self, talks):
        for talk in talks:
            talk.is_over = True
        if talks:
            await asyncio.wait([talk.task for talk in talks])
        self.talks = [talk for talk in self.talks if talk not in talks]

    async def leave(self, name):
        mine = [talk for talk in self.talks if talk.server == name]
        await self.close(mine)
        return await self.open(len(mine))

    async def news(self, count):
        return await self.open(int(count))

    async def rounds(self, count):
        goals = [(talk, talk.rounds + int(count)) for talk in self.talks]
        while any(talk.rounds < goal and not talk.task.done() for talk, goal in goals):
            await asyncio.sleep(0.05)
        return dict(collections.Counter(talk.server for talk in self.talks))


async def talk_all(address, port, count):
    loop = asyncio.get_running_loop()
    crowd = Crowd(address, port)

    def say(servers):
        print(json.dumps({"servers": servers, "wrong": dict(crowd.wrong)}), flush=True)

    say(await crowd.open(count))
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        verb, argument = line.split()
        if verb == "stop":
            break
        say(await getattr(crowd, verb)(argument))
    await crowd.close(list(crowd.talks))
    say({})
    return not crowd.wrong


def talk(address, port, count):
    return asyncio.run(talk_all(address, int(port), int(count)))


def ask(address, port, sockets, count, size):
    found = socket.getaddrinfo(address, port, type=socket.SOCK_DGRAM)[0]
    whole = 0
    for _ in range(int(sockets)):
        with socket.socket(found[0], socket.SOCK_DGRAM) as one:
            one.settimeout(PATIENCE)
            one.connect(found[4])
            for _ in range(int(count)):
                data = os.urandom(int(size))
                one.send(data)
                whole += one.recv(65536) == data
    print(f"{whole} came back whole")
    return whole == int(sockets) * int(count)


if __name__ == "__main__":
    verbs = {verb.__name__: verb for verb in (storm, hold, echo, lines, many, talk, ask)}
    sys.exit(not verbs[sys.argv[1]](*sys.argv[2:]))
