# SPDX-License-Identifier: GPL-2.0-only
# `make` builds, `sudo make demo` shows it at work, `make help` lists the rest.

# Where `make install` puts things.
export PREFIX ?= /usr/local
export DESTDIR ?=
CLANG ?= clang
LLVM_STRIP ?= llvm-strip

# What is needed, each as Debian's package:what it brings. The one list; `make deps` installs it.
BUILD := clang:clang llvm:llvm-strip libbpf-dev: linux-libc-dev: make:make
RUN := iproute2:ip bpftool:bpftool jq:jq util-linux:nsenter procps:sysctl \
	iputils-arping:arping libndp-tools:ndptool fping:fping curl:curl bind9-dnsutils:dig ethtool:ethtool
LAB := iputils-ping:ping nginx-light:nginx openssl:openssl
TEST := bats:bats python3-scapy: python3-pytest: tcpdump:tcpdump tshark:tshark wrk:wrk iperf3:iperf3 \
	bash-completion: dnsmasq-base:dnsmasq traceroute:traceroute mtr-tiny:mtr socat:socat
# For bench and bench-quick.
BENCH := gnuplot-nox:gnuplot haproxy:haproxy libnginx-mod-stream: nftables:nft
LINT := git:git shellcheck:shellcheck shfmt:shfmt clang-format:clang-format mandoc:mandoc man-db:man
# For `make test-kernels` and `make test-units`; not among what `deps` installs.
KERNELS := qemu-system-x86:qemu-system-x86_64 busybox-static:busybox cpio:cpio kmod:depmod xz-utils:xz \
	systemd:systemctl udev:udevadm
# For `make deb` and `make test-deb`; not among what `deps` installs.
DEB := debhelper:dh lintian:lintian mmdebstrap:mmdebstrap
CLANGS = $(shell apt-cache search --names-only '^clang-(1[4-9]|[2-9][0-9])$$' | cut -d' ' -f1)

packages = $(foreach item,$(1),$(firstword $(subst :, ,$(item))))
commands = $(strip $(foreach item,$(1),$(word 2,$(subst :, ,$(item)))))
PACKAGES := $(call packages,$(BUILD) $(RUN) $(LAB) $(TEST) $(LINT))
HEADERS := linux/bpf.h asm/types.h bpf/bpf_helpers.h

# Whatever asks a tool is set with `=`, so that it is asked when used: after `deps` has run.
INSTALLED = $(shell dpkg-query -W -f '$${db:Status-Status}:$${Package} ' $(PACKAGES) 2>/dev/null)
MISSING = $(filter-out $(patsubst installed:%,%,$(INSTALLED)),$(PACKAGES))

# -mcpu=v3 has the atomic and 32-bit instructions. asm/types.h is kept in a directory for each
# machine, which clang does not search when it compiles for BPF. Unused parameters are let pass:
# the kernel dictates those of programs and callbacks.
ARCH_INCLUDE = /usr/include/$(shell uname -m)-linux-gnu
COMPILE = $(CLANG) -g -O2 -target bpf -mcpu=v3 -fno-strict-aliasing -Wall -Wextra -Wno-unused-parameter \
	-Werror -isystem $(ARCH_INCLUDE) $(if $(FLOWS),-DMAX_FLOWS=$(FLOWS)) $(CFLAGS)

OBJECTS := xdp_lb.o netns/xdp_pass.o bench/driver.o

# Goals are made in the order given, with -j too: `make -j clean all`, deps before the build.
.NOTPARALLEL:
.DELETE_ON_ERROR:
.PHONY: all deps deps-kernels deps-bench deps-deb demo bench bench-quick test test-kill test-ring test-random test-flood test-passive test-config test-watch bench-watch test-kernels \
	test-kernels-quick test-units lint format clean install uninstall deb test-deb help need-root FORCE

all: $(OBJECTS) ## build xdp_lb.o; FLOWS=1048576 makes room for that many flows

# Old output is removed, not overwritten: after `sudo make` it belongs to root. The last step drops
# DWARF, which nothing reads here, and keeps BTF.
$(OBJECTS): %.o: %.c .flags
	@$(call need,$(firstword $(CLANG)) $(LLVM_STRIP))
	@$(call need_headers,$(HEADERS))
	@rm -f $@ $*.d
	$(COMPILE) -MMD -MP -c $< -o $@
	$(LLVM_STRIP) -g $@

# Changes only when the command line does, and so rebuilds all.
.flags: FORCE
	@echo "$(COMPILE)" | cmp -s - $@ || { rm -f $@; echo "$(COMPILE)" >$@; }

-include $(OBJECTS:.o=.d)

deps: ## install through apt what is missing to build, run, test and lint
deps-kernels: ## and what test-kernels needs: qemu, and each clang that Debian has
deps-kernels: deps # first: apt may know of no clang before
deps-kernels: PACKAGES += $(call packages,$(KERNELS)) $(CLANGS)
deps deps-kernels deps-bench deps-deb:
	@missing="$(MISSING)"; \
	if ! command -v apt-get >/dev/null; then \
		echo "deps: no apt-get here, so see to these: $(call commands,$(BUILD) $(RUN)),"; \
		echo "deps: headers of libbpf and Linux, scapy and pytest for /usr/bin/python3,"; \
		echo "deps: and for lab, tests and lint $(call commands,$(LAB) $(TEST) $(LINT))"; \
		$(call need,$(call commands,$(BUILD) $(RUN))); \
	elif [ -z "$$missing" ]; then \
		echo "deps: all is there"; \
	elif [ "$$(id -u)" -ne 0 ]; then \
		echo "deps: missing: $$missing. To install: sudo make $@" >&2; exit 1; \
	else \
		echo "deps: installing $$missing"; \
		tests/apt-install.sh $$missing; \
	fi

deps-bench: ## and what bench needs
deps-bench: deps
deps-bench: PACKAGES += $(call packages,$(BENCH))
deps-deb: ## and what deb and test-deb need
deps-deb: PACKAGES += $(call packages,$(DEB))

demo: need-root deps all ## set up a lab of network namespaces and balance pings in it
	netns/demo.sh

test: need-root deps all ## run all tests; `sudo tests/run FILE...` runs some
	@tests/run

test-kill: need-root deps all ## kill lb.sh at 100 random moments (`make test`: 7)
	@KILLS=100 tests/run tests/kill.bats

test-ring: need-root deps all ## 2,000 busy connections through every change of backends (`make test`: 300)
	@CONNECTIONS=2000 PAUSE=1 tests/run tests/ring.bats

test-flood: need-root deps all ## a million SYNs of distinct sources (`make test`: 100,000)
	@FLOOD=1000000 tests/run tests/test_flood.py

test-passive: need-root deps all ## a backend falls silent under 500 new connections a second, for half a minute (`make test`: 3 s)
	@LASTING=30 tests/run tests/passive.bats

test-random: need-root deps all ## run two million random packets (`make test`: 60,000)
	@FRAMES=1000000 tests/run tests/test_random.py

test-config: need-root deps all ## hundreds of configurations, a thousand services, 400 killed applies and upgrades (`make test`: a few)
	@CONFIGS=300 SERVICES=1000 tests/run tests/test_config.py tests/config.bats
	@APPLIES=200 CONNECTIONS=500 tests/run -f "files that are applied" tests/ring.bats
	@UPGRADES=100 CONNECTIONS=500 tests/run -f "upgrades that are killed|likewise" tests/upgrade.bats

test-watch: need-root deps all ## kill `lb.sh watch` 50 times (`make test`: 5)
	@KILLS=50 tests/run -f "any moment" tests/health.bats

test-kernels: need-root deps all ## run the tests under Debian's kernels, 6.1 and 6.12, with each clang's object
	@tests/kernels.sh

test-kernels-quick: need-root deps all ## a few of them under 6.1
	@tests/kernels.sh quick

test-units: need-root deps all ## run the units under systemd, in a machine of its own
	@tests/units.sh

bench: need-root deps deps-bench all ## what a packet costs, beside what it should cost; results go to bench/results
	@bench/run

bench-quick: need-root deps deps-bench all ## a few rounds of it, to see that it works
	@bench/run quick

bench-watch: need-root deps all ## what `lb.sh watch` takes of a processor for 1,000 backends, and how soon it finds one that is gone
	@bench/watch.sh

install: xdp_lb.o netns/xdp_pass.o ## install below PREFIX, /usr/local, and DESTDIR
	@packaging/install.sh install

uninstall: ## remove what install has put there; what is up stays up, and files in /etc/xdp-lb stay
	@packaging/install.sh uninstall

deb: xdp_lb.o netns/xdp_pass.o ## build a package for Debian, of the version in debian/changelog
	@$(call need,dh,deps-deb)
	@rm -f xdp-lb_*_all.deb
	@debian/rules binary >debian/log 2>&1 || { cat debian/log >&2; exit 1; }
	@dh_clean debian/log
	@ls xdp-lb_*_all.deb

test-deb: need-root deps deps-deb deb ## and install, use and purge it in a new Debian 12, a directory of its own
	@tests/deb.sh

lint: ## check format, shell pitfalls, licence lines and the length of functions
	@tests/lint.sh

format: ## format the C and shell code
	@tests/lint.sh --fix

clean: ## remove what was built
	rm -f $(OBJECTS) $(OBJECTS:.o=.d) .flags xdp-lb_*_all.deb

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-19s%s\n", $$1, $$2 }' Makefile

need-root:
	@[ "$$(id -u)" -eq 0 ] || { echo "This needs root: sudo make $(MAKECMDGOALS)" >&2; exit 1; }

# $(call need,COMMAND...): fails for the first that is not there, and says how to get it.
how_to_get = { echo "$$need is missing: install it, on Debian with \`sudo make $(or $(1),deps)\`" >&2; exit 1; }
need = for need in $(1); do command -v "$$need" >/dev/null || $(call how_to_get,$(2)); done

# $(call need_headers,HEADER...): the same for what the compiler should find.
has_header = printf '\#if !__has_include(<%s>)\n\#error\n\#endif\n' "$$need" | \
	$(COMPILE) -E -x c - >/dev/null 2>&1
need_headers = for need in $(1); do $(has_header) || $(call how_to_get); done
