# SPDX-License-Identifier: GPL-2.0-only
"""Ends of a conversation that no tool plays.

    peer.py storm ADDRESS PORT COUNT [server]   COUNT TCP connections to an HTTP server, as fast as they go,
                                                each from a port of its own; the client hangs up
                                                first, or the server
    peer.py hold ADDRESS PORT COUNT             COUNT TCP connections at one time, to a server of lines
    peer.py lines NAME PORT                     that server: it says its name, then echoes each line
    peer.py ask ADDRESS PORT SOCKETS COUNT SIZE COUNT datagrams of SIZE octets from each of so many
                                                sockets; each must come back before the next one goes
    peer.py echo PORT                           a UDP server that sends them back

The exit status is 0 if all went well.
"""
import collections
import contextlib
import errno
import os
import select
import socket
import socketserver
import sys

PARALLEL = 100  # connections at a time
PORTS = range(5000, 65536)
PATIENCE = 10  # seconds; a SYN that was lost is sent again after 1, 3, 7


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
    verbs = {verb.__name__: verb for verb in (storm, hold, echo, lines, ask)}
    sys.exit(not verbs[sys.argv[1]](*sys.argv[2:]))
