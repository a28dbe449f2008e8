# SPDX-License-Identifier: GPL-2.0-only
# What the command can do.

verb_help() {
	cat <<'END'
lb.sh [-n NETNS] [-i INSTANCE] [-j] [-v] COMMAND

  up DEV... [generic]          put the balancer on interfaces. While there is no other service, echo
                               on their own addresses is balanced, as services `ping` and `ping6`
  down [DEV...]                take it off; without DEV remove everything, as if it had never been
  service NAME icmp ADDRESS [noaddress]
                               a service. Its address is added to the host if nobody has it, unless
                               noaddress
  service del NAME             remove a service
  backend ADDRESS [service NAME] [weight N]
                               who serves; without `service`, in every service of its address family.
                               Also ends a drain
  backend drain ADDRESS [service NAME]
                               no new flows for it, and the ones it has live on
  backend del ADDRESS [service NAME]
                               its flows go elsewhere
  status                       services, backends and what became of their packets
  log [count N]                packets as they are balanced, one a line, until ^C or N of them
  help                         this

  -n NETNS      act in this network namespace
  -i INSTANCE   which balancer, where one host has several; else $LB_INSTANCE, else the name of the
                network namespace, or `default`
  -j            status and log as JSON
  -v            show every command that changes the system

Exit status: 0 done, 1 failed, 2 not understood.
END
}
