#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
"""arrivals.py ADDRESS PORT RATE PATIENCE: as many new connections to an HTTP server each second, whatever becomes of those
before, each for one request; until SIGTERM, after which it begins no more. Of each it prints a line: when it began (seconds since 1970), how long it took to
connect (-1: it never was), how often its SYN was sent again, and `ok`, or what went wrong; `late` if it took longer than PATIENCE.
"""
import heapq
import resource
import selectors
import signal
import socket
import struct
import sys
import time

TOTAL_RETRANS = struct.Struct("=100xI")  # of struct tcp_info (linux/tcp.h)
REQUEST = b"GET / HTTP/1.0\r\n\r\n"


class Connection:
    """One that begins now."""

    def __init__(self, address):
        self.socket = socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET, socket.SOCK_STREAM)
        self.socket.setblocking(False)
        self.began, self.connected, self.again, self.answer = time.time(), None, 0, b""
        self.socket.connect_ex(address)

    def __lt__(self, other):
        return self.began < other.began

    def go_on(self):
        """It can be written to, or read. Returns what became of it, or None while it goes on."""
        try:
            if self.connected is None:
                error = self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if error:
                    return socket.errno.errorcode.get(error, str(error))
                self.connected = time.time()
                self.count_again()
                self.socket.send(REQUEST)
                return None
            octets = self.socket.recv(4096)
        except OSError as error:
            return type(error).__name__
        self.answer += octets
        return None if octets else "ok" if b" 200 " in self.answer else "cut"

    def count_again(self):
        info = self.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TOTAL_RETRANS.size)
        [self.again] = TOTAL_RETRANS.unpack(info)

    def end(self, result):
        if self.connected is None and result == "late":
            self.count_again()
        print(f"{self.began:.3f} {self.connected - self.began if self.connected else -1:.3f} {self.again} {result}")
        self.socket.close()


def arrive(address, rate, patience):
    """Prints as above."""
    selector, alive, oldest, told = selectors.DefaultSelector(), set(), [], []
    signal.signal(signal.SIGTERM, lambda *_: told.append(True))
    start, begun = time.monotonic(), 0
    while not told or alive:
        now = time.monotonic()
        while not told and start + begun / rate <= now:
            connection = Connection(address)
            selector.register(connection.socket, selectors.EVENT_WRITE, connection)
            alive.add(connection)
            heapq.heappush(oldest, connection)
            begun += 1
        for key, _ in selector.select(max(0, start + begun / rate - now) if not told else 0.1):
            connection, was = key.data, key.data.connected
            result = connection.go_on()
            if result:
                finish(selector, alive, connection, result)
            elif was is None:
                selector.modify(connection.socket, selectors.EVENT_READ, connection)
        while oldest and (oldest[0] not in alive or oldest[0].began + patience < time.time()):
            connection = heapq.heappop(oldest)
            if connection in alive:
                finish(selector, alive, connection, "late")


def finish(selector, alive, connection, result):
    selector.unregister(connection.socket)
    alive.discard(connection)
    connection.end(result)


def main():
    if len(sys.argv) != 5:
        sys.exit(__doc__)
    sys.stdout.reconfigure(line_buffering=True)
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(limit, 65536), limit))
    arrive((sys.argv[1], int(sys.argv[2])), *(float(one) for one in sys.argv[3:]))


if __name__ == "__main__":
    main()
