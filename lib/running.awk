# SPDX-License-Identifier: GPL-2.0-only
# What state.awk and layout.awk tell, as the configuration "is", and what lib/plan.awk needs besides:
#
# confirm: settings.confirm; limit[MAP], layout[NAME], ours[PROGRAM-ID]: the name of a program of ours; netns: whose instance this is
# service_row[KEY], backend_row[ENDPOINT]: words as told; member_row["ID,ID"], likewise; quic_row, return_row,
# address_row, ring_row[ID], its slots; source_row[ADDRESS] = "INTERFACE DEVICE"; check_row[ID], hook_row["ID,EVENT"]: texts; told_row[ID]

function tell(kind, name, text,    w) {
	split(text, w, " ")
	if (kind == "layout")
		layout[name] = text
	else if (kind == "limit")
		limit[name] = text + 0
	else if (kind == "whole")
		whole = 1
	else if (kind == "program")
		ours[name] = text
	else if (kind == "settings")
		running_settings(name, w)
	else if (kind == "service")
		service_told[w[1]] = name " " text
	else if (kind == "backend")
		backend_told[w[1]] = name " " text
	else if (kind == "member")
		member_row[name] = text
	else if (kind == "check")
		check_row[name] = text
	else if (kind == "hook")
		hook_row[name] = text
	else if (kind == "told")
		told_row[name] = text
	else if (kind == "quic")
		quic_row[name] = text
	else if (kind == "return")
		return_row[name] = text
	else if (kind == "address")
		address_row[name] = text
	else if (kind == "ring")
		ring_row[name] = text + 0
	else if (kind == "snat") {
		source_at["is", ++source_count["is"]] = name
		source_row[name] = text
	} else if (kind == "snat_counts")
		source_counts = name " " text
}

function running_settings(name, w,    i) {
	netns = name
	for (i = 1; i <= timeouts; i++)
		timeout["is", timeout_name[i]] = w[i + 2]
	seed_is_given = w[timeouts + 3]
	confirm["is"] = confirm["new"] = w[timeouts + 4]
}

# NAME ID PROTOCOL VIP PORT FAMILY MODE RING_SIZE VIP_IFINDEX TRACK HASH QUIC NOADDRESS GUE_PORT SPREAD DEVICE FAILCLOSED PASSIVE
# QUORUM SLOWSTART
function running_service(text,    w, i, n, key, field) {
	split(text, w, " ")
	key = w[3] " " endpoint_text(w[4], w[5])
	service_row[key] = substr(text, length(w[1]) + 2)
	key_of[w[2]] = key
	id["is", key] = w[2]
	vip_ifindex["is", key] = w[9]
	service_add("is", key)
	service_named["is", w[1]] = key
	n = split("name - protocol vip port family mode ring - track hash quic noaddress gue_port spread - failclosed passive quorum slowstart", field, " ")
	for (i = 1; i <= n; i++)
		service["is", key, field[i]] = w[i]
	service["is", key, "device"] = w[16] ? link_name(w[16]) : ""
	service["is", key, "check"] = check_row[w[2]]
	for (i = 1; i <= events; i++)
		service["is", key, event_name[i]] = hook_row[w[2] "," event_name[i]]
}

# ENDPOINT ID ADDRESS PORT SOURCE STATE NEIGHBOUR_IFINDEX NEIGHBOUR MANAGED MTU SINCE
function running_backend(text,    w) {
	split(text, w, " ")
	backend_row[w[1]] = substr(text, length(w[1]) + 2)
	backend_of[w[2]] = w[1]
	id["is", w[1]] = w[2]
	backend_add("is", w[1], w[3], w[4])
	backend["is", w[1], "state"] = w[6] == "going" ? "down" : w[6]
	backend["is", w[1], "mtu"] = w[10]
}

# As octets: bpftool's numbers are too large for awk.
function seed_running(    text, place) {
	text = map_octets("settings", "00 00 00 00")
	split(layout["settings.seed"], place, " ")
	text = substr(text, 3 * place[1] + 1, 3 * place[2])
	gsub(/ /, "", text)
	return text
}

# Once all was told.
function running_end(    i, row, ids, w) {
	for (i = 1; i < limit["rings"]; i++) # in the order of their ids
		if (i in service_told)
			running_service(service_told[i])
	for (i = 1; i < limit["targets"]; i++)
		if (i in backend_told)
			running_backend(backend_told[i])
	if (seed_is_given)
		seed["is"] = seed_running()
	for (row in member_row) {
		split(row, ids, ",")
		split(member_row[row], w, " ")
		if (!(ids[1] in key_of) || !(ids[2] in backend_of))
			continue
		member_add("is", key_of[ids[1]], backend_of[ids[2]])
		member["is", key_of[ids[1]], backend_of[ids[2]]] = w[1]
		member_state["is", key_of[ids[1]], backend_of[ids[2]]] = w[2]
		member_backup["is", key_of[ids[1]], backend_of[ids[2]]] = w[7]
	}
	for (row in quic_row) {
		split(row, ids, ",")
		if ((ids[1] in key_of) && (quic_row[row] in backend_of) && ("is", key_of[ids[1]], backend_of[quic_row[row]]) in member) {
			split(service["is", key_of[ids[1]], "quic"], w, ",")
			quic_set("is", key_of[ids[1]], backend_of[quic_row[row]], substr(ids[2], 1, 2 * w[1]))
		}
	}
	for (row in source_row) {
		split(source_row[row], w, " ")
		source_device["is", row] = w[2] ? link_name(w[2]) : ""
	}
	# What was about to be deleted is not there for a change: it goes in any case.
	for (row in member_row) {
		split(row, ids, ",")
		if ((ids[1] in key_of) && (ids[2] in backend_of) && member_row[row] ~ / gone /)
			member_remove("is", key_of[ids[1]], backend_of[ids[2]])
	}
}
