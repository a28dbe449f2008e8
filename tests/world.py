# SPDX-License-Identifier: GPL-2.0-only
"""Services of every kind in the lab, for random frames, and the same in the oracle's words."""
from ipaddress import ip_address

from balancer import end_name
from frames import BACKENDS, CLIENT, LB
from headers import ICMP, ICMPV6, TCP, UDP
from oracle import Service, World

FAMILIES = (4, 6)
OWN = {4: LB.ipv4, 6: LB.ipv6}
SECOND = {4: "10.0.0.20", 6: "2001:db8::20"}
DNAT = {4: "10.0.0.30", 6: "2001:db8::30"}
SNAT = ("10.0.0.41", "10.0.0.42", "2001:db8::41", "2001:db8::42", "2001:db8::43")
# Some behind a router, and one that is a backend too.
CLIENTS = {
    4: (CLIENT.ipv4, "198.51.100.1", "198.51.100.2", "198.51.100.255", BACKENDS[0].ipv4),
    6: (CLIENT.ipv6, "2001:db8:c::1", "2001:db8:c:ffff::2", BACKENDS[1].ipv6),
}
# Both backends serve them all, at the port that the client asked for, and the second one at a
# further port. Name, protocol, VIP, port or 0 for every one, mode, further port or 0.
SERVICES = (
    ("ping", "icmp", OWN, 0, "nat", 0),
    ("web", "tcp", OWN, 80, "nat", 8080),
    ("every", "tcp", SECOND, 0, "nat", 0),
    ("one", "tcp", SECOND, 443, "nat", 8443),
    ("dns", "udp", SECOND, 0, "nat", 0),
    ("echo", "icmp", DNAT, 0, "dnat", 0),
    ("dweb", "tcp", DNAT, 80, "dnat", 8081),
    ("dudp", "udp", DNAT, 0, "dnat", 0),
)
IDLE = ("idle", "tcp", OWN, 81, "nat", 0)  # nobody serves it
NUMBERS = {"tcp": {4: TCP, 6: TCP}, "udp": {4: UDP, 6: UDP}, "icmp": {4: ICMP, 6: ICMPV6}}
TIMEOUTS = ("tcp", "tcp_syn", "tcp_closed", "udp", "udp_new", "echo")


def packed(address):
    return ip_address(address).packed


def mac(text):
    return bytes.fromhex(text.replace(":", ""))


def name_of(name, family):
    return name if family == 4 else f"{name}6"


# --- For lb.sh ---


def set_up(balancer):
    """Services, backends, a router with clients behind it, and a second interface."""
    balancer.ip("link", "add", "other", "type", "veth", "peer", "name", "other-peer")
    for family in FAMILIES:
        neighbour = ["lladdr", CLIENT.mac, "dev", balancer.device, "nud", "permanent"]
        balancer.ip("neigh", "replace", CLIENT.ip(family), *neighbour)
        balancer.ip("route", "replace", "default", "via", CLIENT.ip(family))
        for service in SERVICES[1:]:  # `up` has made ping
            add_service(balancer, family, *service)
        for host in BACKENDS:
            balancer.lb("backend", host.ip(family))
        for name, *_, further in SERVICES:
            if further:
                at = end_name(BACKENDS[1].ip(family), further)
                balancer.lb("backend", at, "service", name_of(name, family))
        add_service(balancer, family, *IDLE)
    timeouts = {f"{name}_timeout": 1 << 20 for name in TIMEOUTS}
    balancer.change_settings(seed=bytes(range(16)), **timeouts)


def add_service(balancer, family, name, protocol, vip, port, mode, _):
    words = ["mode", mode] if vip is OWN else ["mode", mode, "noaddress"]
    at = end_name(vip[family], port)
    balancer.lb("service", name_of(name, family), protocol, at, *words)


# --- For the oracle ---


def services():
    for name, protocol, vip, port, mode, further in (*SERVICES, IDLE):
        for family in FAMILIES:
            backends = [(packed(host.ip(family)), 0) for host in BACKENDS if name != "idle"]
            if further:
                backends.append((packed(BACKENDS[1].ip(family)), further))
            number, address = NUMBERS[protocol][family], packed(vip[family])
            yield Service(name_of(name, family), number, address, port, mode, tuple(backends))


def own_addresses(balancer):
    """What the kernel would not send out: its addresses and broadcast ones."""
    for family in FAMILIES:
        for route in balancer.ip(f"-{family}", "route", "show", "table", "local"):
            if "/" not in route["dst"]:
                yield packed(route["dst"])


def world_of(balancer, nat_sources=(LB.ipv4, LB.ipv6)):
    settings = balancer.settings
    return World(
        services=tuple(services()),
        ifindex=balancer.ifindex,
        mac=mac(LB.mac),
        mtu=1500,
        macs={packed(one.ip(f)): mac(one.mac) for one in (CLIENT, *BACKENDS) for f in FAMILIES},
        links=(packed("10.0.0.0")[:3], packed("2001:db8::")[:8], packed("fe80::")[:8]),
        router=mac(CLIENT.mac),
        own=set(own_addresses(balancer)),
        nat_ports=range(settings["nat_port_first"], settings["nat_port_last"] + 1),
        nat_sources=set(map(packed, nat_sources)),
    )
