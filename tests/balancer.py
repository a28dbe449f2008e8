# SPDX-License-Identifier: GPL-2.0-only
"""A lab with a balancer in it, frames run through its program, and what its maps hold.

    with Balancer("t1") as balancer:
        result = balancer.run(frame)

The kernel calls the program that is attached to the balancer's interface, with a frame that has not
come over any wire: see progrun.py.
"""
import contextlib
import enum
import ipaddress
import json
import pathlib
import socket
import subprocess
import sys
import time
from collections import Counter
from typing import NamedTuple

import progrun
from bpfmaps import pinned, run_control
from pinned import PinnedMap, possible_cpus

TOP = pathlib.Path(__file__).resolve().parent.parent
UNKNOWN = "unknown"


class Verdict(enum.IntEnum):
    """enum xdp_action of linux/bpf.h."""

    ABORTED = 0
    DROP = 1
    PASS = 2
    TX = 3
    REDIRECT = 4


class Result(NamedTuple):
    """What became of a frame."""

    verdict: Verdict
    frame: bytes


def command(*words, stdin=""):
    """Runs a command and returns its output. If it fails, so does the test, with what it said."""
    done = subprocess.run(words, input=stdin, text=True, capture_output=True, check=False)
    assert done.returncode == 0, f"{' '.join(words)}: {done.stdout}{done.stderr}"
    return done.stdout


def wait_for(condition, what, seconds=30):
    """Asks until the answer is yes."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(0.02)


def octets(address):
    """An address as struct addr has it: 16 octets, an IPv4 address mapped."""
    address = ipaddress.ip_address(address)
    return address.packed if address.version == 6 else bytes(10) + b"\xff\xff" + address.packed


def address_text(octets_):
    """The reverse."""
    address = ipaddress.IPv6Address(bytes(octets_))
    return str(address.ipv4_mapped or address)


def end_name(address, port):
    """As lb.sh writes an address with its port, if it has one."""
    if not port:
        return address
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def index_key(index):
    """The key of an array's element."""
    return index.to_bytes(4, sys.byteorder)


class Layout:
    """Structs and enumerators as the BTF of the loaded object describes them."""

    def __init__(self, types):
        self.by_id = {one["id"]: one for one in types}
        self.by_name = {(one["kind"], one["name"]): one for one in types}

    def size(self, type_id):
        one = self.by_id[type_id]
        if one["kind"] == "ARRAY":
            return one["nr_elems"] * self.size(one["type_id"])
        return one["size"] if "size" in one else self.size(one["type_id"])

    def offsets(self, name):
        """A struct's members, each with where it is, in octets."""
        return {one["name"]: one["bits_offset"] // 8 for one in self.by_name["STRUCT", name]["members"]}

    def enumerators(self, name):
        return [value["name"] for value in self.by_name["ENUM", name]["values"]]

    def encode(self, name, old=None, /, **values):
        """The struct's octets: the old ones, or zeros, with these values, numbers in host order."""
        one = self.by_name["STRUCT", name]
        out = bytearray(old or one["size"])
        for member in one["members"]:
            value = values.pop(member["name"], None)
            start, size = member["bits_offset"] // 8, self.size(member["type_id"])
            if isinstance(value, int):
                value = value.to_bytes(size, sys.byteorder)
            if value is not None:
                out[start : start + size] = value.ljust(size, b"\0")
        assert not values, f"struct {name} has no {', '.join(values)}"
        return bytes(out)


class Balancer:
    """The lab and the instance; both are named after `name` and gone at the end of the `with`."""

    device = "veth6"

    def __init__(self, name, top=TOP):
        """`top` has the scripts and the object, built."""
        self.top = top
        self.prefix = f"{name}-"
        self.netns = f"{self.prefix}lb"
        self.instance = f"{name}-packets"
        self.maps = f"/sys/fs/bpf/xdp_lb/{self.instance}/tc/globals"
        self.known = {}  # what services() and backends() found; lb.sh may change it
        self.cleanup = contextlib.ExitStack()

    def __enter__(self):
        with contextlib.ExitStack() as undo:
            undo.callback(self.lab, "down")  # first: if `up` is interrupted, there is half a lab
            self.lab("up")
            undo.callback(self.lb, "down")
            self.lb("up", self.device)
            self.ifindex, self.program = self.interface(self.device)
            self.layout = self.read_layout()
            self.cleanup = undo.pop_all()
        return self

    def __exit__(self, *exception):
        self.cleanup.close()

    def lab(self, *words):
        return command(str(self.top / "netns/lab.sh"), "-p", self.prefix, *words)

    def lb(self, *words):
        self.known.clear()
        return command(str(self.top / "lb.sh"), "-n", self.netns, "-i", self.instance, *words)

    def ip(self, *words):
        """ip within the balancer's network namespace; what it prints, if anything, as JSON."""
        return json.loads(command("ip", "-n", self.netns, "-d", "-j", *words) or "null")

    def interface(self, device):
        """Its index, and the id of the XDP program on it or None."""
        link = self.ip("link", "show", "dev", device)[0]
        return link["ifindex"], link.get("xdp", {}).get("prog", {}).get("id")

    @contextlib.contextmanager
    def more(self, path, lines):
        """With these lines of a configuration beside what is running, all at once as a file."""
        before = self.lb("save")
        path.write_text(before + "".join(line + "\n" for line in lines))
        self.lb("apply", str(path))
        yield
        path.write_text(before)
        self.lb("apply", str(path), "now", "force")

    def status(self):
        return json.loads(self.lb("-j", "status"))

    def add_backend(self, address, service=None, port=0):
        """Adds one that answers, to a service or to all that it fits, and waits until the kernel has
        its MAC address."""
        self.lb("backend", end_name(address, port), *(("service", service) if service else ()))
        wait_for(lambda: "lladdr" in self.ip("neigh", "show", address)[0], f"MAC of {address}")

    def bpftool(self, *words):
        """One command of bpftool, done in the namespace; None if it has nothing to show."""
        return self.batch([words])[0]

    def batch(self, commands):
        """Several, in one process. Of each its output."""
        lines = "".join(" ".join(map(str, words)) + "\n" for words in commands)
        words = f"nsenter --net=/run/netns/{self.netns} bpftool -j batch file -".split()
        # Its exit status says little: a look-up that finds nothing fails too.
        done = subprocess.run(words, input=lines, text=True, capture_output=True, check=False)
        outputs = [one["output"] for one in json.loads(done.stdout)] if done.stdout else []
        failed = [one for one in outputs if isinstance(one, dict) and "error" in one]
        assert not failed and len(outputs) == lines.count("\n"), f"bpftool: {failed} {done.stderr}"
        return outputs

    def read_layout(self):
        btf = self.bpftool("map", "show", "pinned", f"{self.maps}/services")["btf_id"]
        # Not as a batch, where bpftool's JSON of this command has another form.
        return Layout(json.loads(command("bpftool", "-j", "btf", "dump", "id", str(btf)))["types"])

    def index_fill(self):
        """What lb.sh does when it has changed services. Returns how many found no place."""
        with pinned(f"{self.maps}/control/index_fill") as program:
            return run_control(program)

    # --- Frames ---

    def run(self, frame, ifindex=None):
        """What the program makes of a frame that came in at veth6, or at another interface."""
        return self.run_all([frame], ifindex)[0]

    def run_all(self, frames, ifindex=None, cpu=None):
        """The same for many frames, in this order, on that processor if one is named."""
        netns = f"/run/netns/{self.netns}"
        results = progrun.run(self.program, frames, ifindex or self.ifindex, netns, cpu)
        return [Result(Verdict(verdict), frame) for verdict, frame in results]

    # --- Maps ---

    def dump(self, name):
        """All entries, as bpftool formats them."""
        return [
            one["formatted"] for one in self.bpftool("map", "dump", "pinned", f"{self.maps}/{name}")
        ]

    def lookup(self, name, key):
        """The entry as bpftool shows it, or None."""
        return self.bpftool(*self.map_command("lookup", name, key))

    def change(self, name, key, struct_name, **values):
        """Writes some fields of an entry that is there, a struct of that name."""
        old = bytes(int(octet, 16) for octet in self.lookup(name, key)["value"])
        value = self.layout.encode(struct_name, old, **values)
        self.bpftool(*self.map_command("update", name, key), "value", "hex", value.hex(" "))

    def map_command(self, verb, name, key):
        return "map", verb, "pinned", f"{self.maps}/{name}", "key", "hex", key.hex(" ")

    @property
    def settings(self):
        return self.lookup("settings", index_key(0))["formatted"]["value"]

    def change_settings(self, **values):
        self.change("settings", index_key(0), "settings", **values)

    def services(self):
        """Name -> id. Under UNKNOWN is what is counted of no service."""
        if "services" not in self.known:
            values = [one["value"] for one in self.dump("services")]
            self.known["services"] = {value["name"]: value["id"] for value in values}
        return self.known["services"] | {UNKNOWN: 0}

    def backends(self):
        """Address, with the port if it has one -> id."""
        if "backends" not in self.known:
            dump = [(one["key"], one["value"]["id"]) for one in self.dump("backends")]
            self.known["backends"] = {
                end_name(address_text(key["address"]["octets"]), key["port"]): index
                for key, index in dump
            }
        return self.known["backends"]

    def forget_next_hop_age(self, backend):
        """Makes the datapath look up its next hop again now, not only after a second."""
        self.change("targets", index_key(self.backends()[backend]), "target", checked=0)

    # --- Flows ---

    def flow_key(self, source, destination, source_port, destination_port, protocol):
        return self.layout.encode(
            "flow_key",
            source=octets(source),
            destination=octets(destination),
            source_port=socket.htons(source_port),
            destination_port=socket.htons(destination_port),
            protocol=protocol,
        )

    def flow(self, key):
        """The entry in the words of people; None if there is none."""
        entry = self.lookup("flows", key)
        if entry is None:
            return None
        flow = entry["formatted"]["value"]
        return {
            "source": address_text(flow["source"]["octets"]),
            "destination": address_text(flow["destination"]["octets"]),
            "source_port": socket.ntohs(flow["source_port"]),
            "destination_port": socket.ntohs(flow["destination_port"]),
            "direction": flow["direction"],
            "service": flow["service"],
            "backend": flow["backend"],
            "ifindex": flow["ifindex"],
            "dst_mac": bytes(flow["dst_mac"]).hex(":"),
            "src_mac": bytes(flow["src_mac"]).hex(":"),
            "state": flow["state"],
        }

    def forget_flow(self, key):
        """As when it had to make room for another."""
        self.bpftool(*self.map_command("delete", "flows", key))

    def age_flow(self, key, seconds):
        """Makes an entry look as if its last packet were that much longer ago."""
        seen = self.lookup("flows", key)["formatted"]["value"]["seen"]
        self.change("flows", key, "flow", seen=seen - seconds * self.settings["hz"])

    # --- Counters ---

    @contextlib.contextmanager
    def counting(self, what="packets"):
        """Yields a Counter that has, after the `with`, what was added: {"ping forwarded": 1}."""
        added = Counter()
        before = self.counters(what)
        yield added
        added.update(self.counters(what) - before)

    def counters(self, what):
        """Packets or bytes, of every service and every backend; or flows opened, of the backends."""
        traffic = self.layout.offsets("traffic")
        if what in traffic:
            reasons = [name[len("REASON_") :].lower() for name in self.layout.enumerators("reason")]
            size = self.layout.by_name["STRUCT", "traffic"]["size"]
            of_service = {reason: i * size + traffic[what] for i, reason in enumerate(reasons)}
            of_backend = self.layout.offsets("backend_counters")
            of_backend = {way: of_backend[way] + traffic[what] for way in ("forwarded", "returned")}
        else:
            of_service, of_backend = {}, {what: self.layout.offsets("backend_counters")[what]}
        return self.sums("counters", "service_counters", self.services(), of_service) + self.sums(
            "backend_counters", "backend_counters", self.backends(), of_backend
        )

    def sums(self, map_name, struct_name, indexes, places):
        """Of all processors, "name what", for the elements of such an array: name -> index, what -> its place."""
        total, size = Counter(), self.layout.by_name["STRUCT", struct_name]["size"]
        elements = PinnedMap(f"{self.maps}/{map_name}", 4, possible_cpus() * size)
        for name, index in indexes.items() if places else ():
            value = elements.lookup(index_key(index))
            for what, place in places.items():
                numbers = (value[at : at + 8] for at in range(place, len(value), size))
                total[f"{name} {what}"] += sum(int.from_bytes(one, sys.byteorder) for one in numbers)
        elements.close()
        return total
