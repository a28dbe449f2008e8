# SPDX-License-Identifier: GPL-2.0-only
# What the command can do.

verb_help() {
	help_commands
	help_files
	help_words
}

help_commands() {
	cat <<'END'
lb.sh [-n NETNS] [-i INSTANCE] [-j] [-v] COMMAND

  up DEV... [generic]          put the balancer on interfaces. While there is no other service, echo
                               on their own addresses is balanced, as services `ping` and `ping6`
  down [DEV...]                take it off; without DEV remove everything, as if it had never been
  service NAME tcp|udp ADDRESS[:PORT] [mode nat|dnat|dsr|ipip|gue] [hash 5tuple|source]
                               [track auto|always|never] [gue-port PORT] [spread PREFIX]
                               [ring SIZE] [quic LENGTH [quic-offset N]] [noaddress] [dev DEV]
  service NAME icmp ADDRESS ...
                               a service; without PORT it has every port that is not another's. IPv6
                               with a port: [2001:db8::10]:80. Its address is added to the host (to
                               DEV) and announced if the host does not have it, unless noaddress
  service del NAME             remove a service
  backend ADDRESS[:PORT] [service NAME] [weight N] [quic-id HEX] [mtu N|auto]
                               who serves; without PORT at the port that the client asked for; without
                               `service` in every service that it fits. Also ends a drain
  backend drain ADDRESS[:PORT] [service NAME]
                               no new flows for it; the ones it has live on. So does weight 0
  backend del ADDRESS[:PORT] [service NAME]
                               its flows go elsewhere
  backend down ADDRESS[:PORT]  declares it down: its flows, and no others, go elsewhere at once, in all
                               services; backend up ADDRESS[:PORT] ends that
  backend help SERVICE         what its backends need, as commands to be run on them
  snat ADDRESS... [dev DEV]    source addresses for mode nat, each with as many ports as the one that
                               is used without any; snat del ADDRESS... removes them
  timeout [NAME SECONDS]       how long a flow may be idle before its source port may be given to
                               another: tcp, tcp-syn, tcp-closed, udp, udp-new, echo
  decap DEV [from PREFIX...] [gue-port PORT] [generic]
                               on a backend: unwraps packets of the modes ipip and gue, that these balancers
                               send (else anybody); decap DEV off ends it
  sweep                        forget flows that need not be remembered any more, and backends that have left
                               (for cron: each change does the first, apply both)
  status                       services, backends and what became of their packets
  explain tcp|udp|icmp FROM TO what would become of a packet, and why; nothing is sent or changed
  log [count N]                packets as they are balanced, one a line, until ^C or N of them
  help                         this
END
}

help_files() {
	cat <<'END'

  save                         what is running, as the lines that make it so
  check FILE                   is a file of such lines understood (- is standard input)?
  diff FILE                    what apply would change, as diff -u prints it; exit status 1 if there is anything
  apply FILE [now] [force] [confirm SECONDS]
                               make all what the file says. Backends that are not in it leave: they get no new
                               flows, and are deleted by a sweep when they have none, or now. What would cut
                               many connections wants force. Taken back unless confirmed in time
  confirm                      what was applied stays
  seed HEX                     key of the hash that picks backends, 32 digits, equal on all balancers of a fleet
END
}

help_words() {
	cat <<'END'

Modes: nat rewrites both addresses, and backends need nothing. dnat rewrites the destination only:
backends see their clients, and must route to them through the balancer. It remembers flows only while a
change of backends moves them (track auto; of UDP none), always, or never. In dsr, ipip and gue, which are like dnat in
this, backends have the service's address too and answer clients themselves: dsr changes MAC addresses only, ipip
wraps packets in IP, gue in UDP (to gue-port, 6080). spread PREFIX: the outer source is not our own address but one of
these, by flow. mtu N: larger packets do not reach the backend. hash source sends a client's
flows to one backend, whatever the service and port. ring SIZE, a prime, makes a smaller ring than 65537 slots of
8 octets, for installations with thousands of services. quic LENGTH lets packets of a udp service follow the
server id in their connection ID, LENGTH octets behind the first one, or from octet N on; quic-id says whose it is.

  -n NETNS      act in this network namespace
  -i INSTANCE   which balancer, where one host has several; else $LB_INSTANCE, else the name of the
                network namespace, or `default`
  -j            status, explain, timeout and log as JSON
  -v            show every command that changes the system

Exit status: 0 done, 1 failed, 2 not understood.
END
}
