# SPDX-License-Identifier: GPL-2.0-only
# Backends: who serves, by address, or by address and port. A backend exists as long as it is a member of a
# service.

# verb backend: ADDRESS[:PORT] and what lib/grammar.awk knows; help SERVICE.
verb_backend() {
	if [[ ${1:-} != help ]]; then
		change backend "$@"
		return
	fi
	(($# == 2)) || misuse "backend help needs a service, and no more: $PROGRAM backend help web"
	backend_help "$2"
}
