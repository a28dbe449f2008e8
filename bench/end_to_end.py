# SPDX-License-Identifier: GPL-2.0-only
"""Real frames through real interfaces: xdp_lb beside what one would take instead, in one run. A table, and
results/end_to_end.json.

Three hosts, client, balancer and server, each a network namespace, and veth between them; all share this machine's
processors, so the sums of what all of them used are told, and what a machine of the balancer's own does is more. The
limit is a program that does nothing but redirect.
"""
import contextlib
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict

from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from harness import TOP, Packets, possible_processors  # finds tests/ for the others
import progrun
from balancer import command, index_key, wait_for
from bpfmaps import array_values, pinned, update
from packets import RESULTS, about_this_machine

CLIENT, SERVERS, VIP = "10.77.0.1", ("10.78.0.2", "10.78.0.3"), "10.77.0.10"
MAC = {"c0": "02:00:00:00:00:01", "l0": "02:00:00:00:00:02", "l1": "02:00:00:00:00:03", "s0": "02:00:00:00:00:04"}
FRAME = bytes(Ether(src=MAC["c0"], dst=MAC["l0"]) / IP(src=CLIENT, dst=VIP) / UDP(sport=3000, dport=2000, chksum=0) / Raw(bytes(18)))
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")


class Lab:
    """c0 of the client - l0, l1 of the balancer - s0 of the server."""

    def __init__(self, name):
        self.name, self.cleanup = name, contextlib.ExitStack()

    def __enter__(self):
        with contextlib.ExitStack() as undo:
            self.work = undo.enter_context(tempfile.TemporaryDirectory(prefix="xdp_lb-bench."))
            os.chmod(self.work, 0o755)
            for host in "c", "l", "s":
                command("ip", "netns", "add", self.netns(host))
                undo.callback(command, "ip", "netns", "del", self.netns(host))
                self.run(host, "ip", "link", "set", "lo", "up")
                self.run(host, "sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1")
                # More connections than there are ports in the minute that TIME-WAIT lasts.
                self.run(host, "sysctl", "-qw", "net.ipv4.ip_local_port_range=10000 65535", "net.ipv4.tcp_max_tw_buckets=0")
            self.cable("c", "c0", "l", "l0")
            self.cable("s", "s0", "l", "l1")
            for host, device, address in (
                ("c", "c0", f"{CLIENT}/24"), ("l", "l0", "10.77.0.254/24"), ("l", "l1", "10.78.0.254/24"),
                *(("s", "s0", f"{server}/24") for server in SERVERS),
            ):
                self.run(host, "ip", "address", "add", address, "dev", device)
            self.run("s", "ip", "route", "add", "default", "via", "10.78.0.254")
            self.run("l", "sysctl", "-qw", "net.ipv4.ip_forward=1")
            self.load(undo)
            self.cleanup = undo.pop_all()
        return self

    def __exit__(self, *exception):
        self.cleanup.close()

    def netns(self, host):
        return f"{self.name}-{host}"

    def run(self, host, *words):
        return command("nsenter", f"--net=/run/netns/{self.netns(host)}", *map(str, words))

    def start(self, host, *words):
        """Of something that goes on; ended by end()."""
        log = open(f"{self.work}/log", "ab")  # pylint: disable=consider-using-with # the child's
        return subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "nsenter", f"--net=/run/netns/{self.netns(host)}", *map(str, words)],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )

    def cable(self, host, device, other_host, other):
        command(
            "ip", "-n", self.netns(host), "link", "add", device, "address", MAC[device], "type", "veth",
            "peer", "name", other, "address", MAC[other], "netns", self.netns(other_host),
        )
        for where, one in (host, device), (other_host, other):
            self.run(where, "ip", "link", "set", one, "up")
            self.run(where, "ethtool", "-K", one, "tx", "off", "gro", "on")

    def load(self, undo):
        """driver.c's programs for the hosts."""
        self.pins = f"/sys/fs/bpf/xdp_lb/{self.name}-bench"
        undo.callback(command, "rm", "-rf", self.pins)
        command("mkdir", "-p", self.pins)
        command("bpftool", "prog", "loadall", str(TOP / "bench/driver.o"), self.pins, "pinmaps", self.pins)
        self.attach("c", "c0", "pass")
        with pinned(f"{self.pins}/bench_way") as ways:
            for i, end_ in enumerate((("l", "l1"), ("c", "c0"))):
                update(ways, index_key(i), index_key(self.ifindex(*end_)))
        with pinned(f"{self.pins}/bench_case") as case:
            update(case, index_key(0), Packets(FRAME, 1).encode())

    def ifindex(self, host, device):
        return json.loads(self.run(host, "ip", "-j", "link", "show", device))[0]["ifindex"]

    def attach(self, host, device, program):
        self.run(host, "ip", "-force", "link", "set", "dev", device, "xdp", "pinned", f"{self.pins}/{program}")

    def detach(self, host, device):
        self.run(host, "ip", "link", "set", "dev", device, "xdp", "off")

    def sunk(self):
        """Packets that have come to s0, while sink() was on it."""
        with pinned(f"{self.pins}/bench_sunk") as sunk:
            octets = array_values(sunk, 1, 8 * possible_processors())
        return sum(int.from_bytes(octets[i : i + 8], sys.byteorder) for i in range(0, len(octets), 8))

    def lb(self, *words):
        return self.run("l", str(TOP / "lb.sh"), "-i", f"{self.name}-lb", *words)


def end(process):
    process.terminate()
    process.wait()


# --- The contestants: each a context in which the VIP is served, port 80 by TCP and all ports by UDP ---


@contextlib.contextmanager
def limit(lab):
    """The least that a program can do."""
    lab.attach("l", "l0", "redirect")
    yield
    lab.detach("l", "l0")


def xdp_lb(mode):
    @contextlib.contextmanager
    def contestant(lab):
        lab.lb("up", "l0", "l1")
        try:
            for name, *words in ("web", "tcp", f"{VIP}:80"), ("any", "udp", VIP):
                lab.lb("service", name, *words, "mode", mode)
            for server in SERVERS:
                for service in "web", "any":
                    lab.lb("backend", server, "service", service)
            wait_for(lambda: lab.run("l", "ip", "neigh", "show", "to", "10.78.0.0/24").count("lladdr") == 2, "MACs")
            yield
        finally:
            lab.lb("down")

    return contestant


NFT = """table ip bench {{
  chain prerouting {{
    type nat hook prerouting priority -100;
    ip daddr {vip} tcp dport 80 dnat to numgen inc mod 2 map {{ 0 : {servers[0]}, 1 : {servers[1]} }}
    ip daddr {vip} udp dport 1-65535 dnat to numgen inc mod 2 map {{ 0 : {servers[0]}, 1 : {servers[1]} }}
  }}
}}
"""


@contextlib.contextmanager
def nftables(lab):
    path = f"{lab.work}/nft"
    with open(path, "w", encoding="ascii") as out:
        out.write(NFT.format(vip=VIP, servers=SERVERS))
    lab.run("l", "nft", "-f", path)
    for server in SERVERS:
        lab.run("l", "ping", "-qc1", server)  # whose MAC addresses the others have looked up too
    lab.run("l", "ip", "address", "add", f"{VIP}/32", "dev", "l0")
    yield
    lab.run("l", "ip", "address", "del", f"{VIP}/32", "dev", "l0")
    lab.run("l", "nft", "delete", "table", "ip", "bench")


HAPROXY = """global
  maxconn 2000
defaults
  mode tcp
  timeout connect 5s
  timeout client 30s
  timeout server 30s
listen web
  bind {vip}:80
  server s1 {servers[0]}:80
  server s2 {servers[1]}:80
"""
NGINX_STREAM = """load_module modules/ngx_stream_module.so;
worker_processes auto; daemon off; pid {work}/stream.pid; error_log stderr error;
events {{ worker_connections 10000; }}
stream {{
  upstream servers {{ server {servers[0]}:80; server {servers[1]}:80; }}
  server {{ listen {vip}:80; proxy_pass servers; }}
}}
"""


def proxy(config, *words):
    """A program that takes the client's connections and makes others."""

    @contextlib.contextmanager
    def contestant(lab):
        path = f"{lab.work}/proxy.conf"
        with open(path, "w", encoding="ascii") as out:
            out.write(config.format(vip=VIP, servers=SERVERS, work=lab.work))
        lab.run("l", "ip", "address", "add", f"{VIP}/32", "dev", "l0")
        process = lab.start("l", *words, path)
        try:
            wait_for(lambda: f"{VIP}:80" in lab.run("l", "ss", "-ltn"), f"{words[0]} listens")
            yield
        finally:
            end(process)
            lab.run("l", "ip", "address", "del", f"{VIP}/32", "dev", "l0")

    return contestant


PACKETS = {"limit": limit, "xdp_lb dsr": xdp_lb("dsr"), "xdp_lb dnat": xdp_lb("dnat"), "xdp_lb nat": xdp_lb("nat"), "nftables": nftables}
CONNECTIONS = {
    "xdp_lb dnat": xdp_lb("dnat"), "xdp_lb nat": xdp_lb("nat"), "nftables": nftables,
    "HAProxy": proxy(HAPROXY, "haproxy", "-db", "-f"), "nginx stream": proxy(NGINX_STREAM, "nginx", "-c"),
}


# --- What is measured ---


def busy_seconds():
    """Of all processors, since the machine began."""
    with open("/proc/stat", encoding="ascii") as stat:
        user, nice, system, _, _, irq, softirq, *_ = map(int, stat.readline().split()[1:])
    return (user + nice + system + irq + softirq) / CLOCK_TICKS


def flood(lab, count):
    """Datagrams of 1024 flows, from the client to the VIP. Returns packets a second, and CPU time a packet in ns."""
    lab.attach("s", "s0", "sink")
    before, began, busy = lab.sunk(), time.monotonic(), busy_seconds()
    progrun.send(f"{lab.pins}/generate", FRAME, count, lab.ifindex("c", "c0"), f"/run/netns/{lab.netns('c')}")
    seconds, busy, arrived = time.monotonic() - began, busy_seconds() - busy, lab.sunk() - before
    lab.detach("s", "s0")
    if arrived < count * 0.9:
        raise RuntimeError(f"only {arrived} of {count} packets arrived")
    return {"per_second": arrived / seconds, "cpu": busy / arrived * 1e9}


def requests(lab, seconds):
    """Each a connection of its own, for 1 kB. Returns how many a second, and CPU time of each in ns."""
    lab.attach("s", "s0", "pass")
    busy = busy_seconds()
    words = "--timeout", "30s", "-H", "Connection: close"
    said = lab.run("c", "wrk", "-t", 1, "-c", 50, "-d", seconds, *words, f"http://{VIP}/1k")
    busy = busy_seconds() - busy
    lab.detach("s", "s0")
    errors = re.search(r"Socket errors: connect (\d+), read \d+, write (\d+), timeout (\d+)", said)
    if "Non-2xx" in said or errors and any(map(int, errors.groups())):  # it counts the end of each connection as read
        raise RuntimeError(said)
    done, seconds = re.search(r"(\d+) requests in ([\d.]+)s", said).groups()
    return {"per_second": int(done) / float(seconds), "cpu": busy / int(done) * 1e9}


NGINX = """worker_processes 1; daemon off; pid {work}/nginx.pid; error_log stderr error;
events {{ worker_connections 10000; }}
http {{ access_log off; server {{ listen 80 backlog=4096; root {work}; }} }}
"""


@contextlib.contextmanager
def web_server(lab):
    with open(f"{lab.work}/1k", "wb") as out:
        out.write(bytes(1024))
    with open(f"{lab.work}/nginx.conf", "w", encoding="ascii") as out:
        out.write(NGINX.format(work=lab.work))
    process = lab.start("s", "nginx", "-c", f"{lab.work}/nginx.conf")
    try:
        wait_for(lambda: ":80" in lab.run("s", "ss", "-ltn"), "the web server listens")
        yield
    finally:
        end(process)


def rounds(lab, what, contestants, number, *words):
    """Of each contestant the medians of all rounds, in which they take turns."""
    values = defaultdict(list)
    for i in range(number):
        for name, contestant in contestants.items():
            print(f"round {i + 1} of {number}: {name}", file=sys.stderr, flush=True)
            with contestant(lab):
                values[name].append(what(lab, *words))
    return {
        name: {key: statistics.median(one[key] for one in of) for key in of[0]} for name, of in values.items()
    }


def print_table(title, unit, figures):
    first = next(iter(figures.values()))
    print(f"\n{title}\n{'':16}{unit + '/s':>14}{'ratio':>8}{'CPU, ns':>12}{'ratio':>8}")
    for name, one in figures.items():
        print(
            f"{name:16}{one['per_second']:14.0f}{one['per_second'] / first['per_second']:8.2f}"
            f"{one['cpu']:12.0f}{one['cpu'] / first['cpu']:8.2f}"
        )


def main(words):
    if words not in ([], ["quick"]):
        sys.exit("usage: bench/end_to_end.py [quick]")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    number, count, seconds = (1, 200000, 1) if words else (5, 3000000, 2)
    with Lab(f"e{os.getpid()}") as lab:
        packets = rounds(lab, flood, PACKETS, number, count)
        with web_server(lab):
            connections = rounds(lab, requests, CONNECTIONS, number, seconds)
    print_table("Datagrams of 64 octets, one way, by one processor:", "packets", packets)
    print_table("Connections, each for 1 kB:", "requests", connections)
    directory = RESULTS / "quick" if words else RESULTS
    directory.mkdir(parents=True, exist_ok=True)
    record = {"about": about_this_machine(), "packets": packets, "connections": connections}
    (directory / "end_to_end.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
