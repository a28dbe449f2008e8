# SPDX-License-Identifier: GPL-2.0-only
"""Prints how the index of services differs from `services`: indexed.py DIRECTORY, where the maps are pinned. Nothing
where it does not."""
import json
import subprocess
import sys

from bpfmaps import array_values, pinned

KEY = 24  # octets of struct service_key; the service's id comes next


def bpftool(*words):
    return json.loads(subprocess.run(["bpftool", "-j", *words], capture_output=True, check=True).stdout)


def main(maps):
    show = bpftool("map", "show", "pinned", f"{maps}/service_index")
    half = bpftool("map", "dump", "pinned", f"{maps}/settings")[0]["formatted"]["value"]["index_half"]
    size, count = show["bytes_value"], show["max_entries"]
    with pinned(f"{maps}/service_index") as index:
        octets = array_values(index, count, size)
    entries = [octets[i * size : (i + 1) * size] for i in range(half * count // 2, (half + 1) * count // 2)]
    indexed = {entry[:KEY] for entry in entries if any(entry[KEY : KEY + 4])}
    services = {bytes(int(one, 16) for one in each["key"]) for each in bpftool("map", "dump", "pinned", f"{maps}/services")}
    for what, keys in ("missing", services - indexed), ("left", indexed - services):
        for key in sorted(keys):
            print(what, key.hex())


main(sys.argv[1])
