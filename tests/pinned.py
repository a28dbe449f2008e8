# SPDX-License-Identifier: GPL-2.0-only
"""Pinned maps by bpf(2), for what is read or emptied too often for a bpftool."""
import contextlib
import ctypes
import os
import struct

from progrun import bpf

# enum bpf_cmd of linux/bpf.h
BPF_MAP_LOOKUP_ELEM = 1
BPF_MAP_UPDATE_ELEM = 2
BPF_MAP_DELETE_ELEM = 3
BPF_MAP_GET_NEXT_KEY = 4
BPF_OBJ_GET = 7


def possible_cpus():
    """How many values an element of a per-CPU map has."""
    with open("/sys/devices/system/cpu/possible", encoding="ascii") as ranges:
        return 1 + int(ranges.read().strip().replace("-", ",").split(",")[-1])


class PinnedMap:
    """Sizes are those of the structs, in octets; of a per-CPU map's value that of all CPUs
    together."""

    def __init__(self, path, key_size, value_size):
        name = ctypes.create_string_buffer(os.fsencode(path))
        attr = struct.pack("=QII", ctypes.addressof(name), 0, 0)
        self.fd = bpf(BPF_OBJ_GET, attr, len(attr))
        self.key = ctypes.create_string_buffer(key_size)
        self.value = ctypes.create_string_buffer(max(key_size, value_size))

    def close(self):
        os.close(self.fd)

    def call(self, command, key=True, value=True):
        key, value = (
            ctypes.addressof(of) if wanted else 0
            for of, wanted in ((self.key, key), (self.value, value))
        )
        attr = struct.pack("=IIQQQ", self.fd, 0, key, value, 0)
        bpf(command, attr, len(attr))

    def lookup(self, key):
        """The value's octets. Raises KeyError."""
        self.key.raw = key
        try:
            self.call(BPF_MAP_LOOKUP_ELEM)
        except FileNotFoundError as error:
            raise KeyError(key) from error
        return self.value.raw

    def update(self, key, value):
        self.key.raw, self.value.raw = key, value
        self.call(BPF_MAP_UPDATE_ELEM)

    def __len__(self):
        """How many entries it has."""
        entries = 0
        with contextlib.suppress(FileNotFoundError):
            self.call(BPF_MAP_GET_NEXT_KEY, key=False)
            while True:
                entries += 1
                self.key.raw = self.value.raw[: len(self.key)]
                self.call(BPF_MAP_GET_NEXT_KEY)
        return entries

    def clear(self):
        """Of all entries, if nobody writes meanwhile."""
        with contextlib.suppress(FileNotFoundError):
            self.call(BPF_MAP_GET_NEXT_KEY, key=False)
            while True:
                self.key.raw, last = self.value.raw[: len(self.key)], None
                with contextlib.suppress(FileNotFoundError):
                    self.call(BPF_MAP_GET_NEXT_KEY)
                    last = self.value.raw
                self.call(BPF_MAP_DELETE_ELEM, value=False)
                if last is None:
                    break
                self.value.raw = last
