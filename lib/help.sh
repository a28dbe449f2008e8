# SPDX-License-Identifier: GPL-2.0-only
# What the command can do.

verb_help() {
	cat <<'END'
lb.sh [-n NETNS] [-i INSTANCE] [-j] [-v] COMMAND

  up DEV... [generic]          put the balancer on interfaces. While there is no other service, echo
                               on their own addresses is balanced, as services `ping` and `ping6`
  down [DEV...]                take it off; without DEV remove everything, as if it had never been
  service NAME tcp|udp ADDRESS[:PORT] [mode nat|dnat] [noaddress] [dev DEV]
  service NAME icmp ADDRESS [mode nat|dnat] [noaddress] [dev DEV]
                               a service; without PORT it has every port that is not another's. IPv6
                               with a port: [2001:db8::10]:80. Its address is added to the host (to
                               DEV) and announced if the host does not have it, unless noaddress
  service del NAME             remove a service
  backend ADDRESS[:PORT] [service NAME] [weight N]
                               who serves; without PORT at the port that the client asked for; without
                               `service` in every service that it fits. Also ends a drain
  backend drain ADDRESS[:PORT] [service NAME]
                               no new flows for it, and in mode nat the ones it has live on
  backend del ADDRESS[:PORT] [service NAME]
                               its flows go elsewhere
  snat ADDRESS... [dev DEV]    source addresses for mode nat, each with as many ports as the one that
                               is used without any; snat del ADDRESS... removes them
  timeout [NAME SECONDS]       how long a flow may be idle before its source port may be given to
                               another: tcp, tcp-syn, tcp-closed, udp, udp-new, echo
  status                       services, backends and what became of their packets
  log [count N]                packets as they are balanced, one a line, until ^C or N of them
  help                         this

Modes: nat rewrites both addresses, and backends need nothing. dnat rewrites the destination only:
backends see their clients, and must route to them through the balancer.

  -n NETNS      act in this network namespace
  -i INSTANCE   which balancer, where one host has several; else $LB_INSTANCE, else the name of the
                network namespace, or `default`
  -j            status, timeout and log as JSON
  -v            show every command that changes the system

Exit status: 0 done, 1 failed, 2 not understood.
END
}
