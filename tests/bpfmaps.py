# SPDX-License-Identifier: GPL-2.0-only
"""Pinned maps and control programs by bpf(2) itself, for so many entries that bpftool would take
minutes."""
import contextlib
import ctypes
import os
import struct

from progrun import BPF_PROG_TEST_RUN, TEST_RUN, bpf

# enum bpf_cmd of linux/bpf.h
BPF_MAP_CREATE = 0
BPF_MAP_LOOKUP_ELEM = 1
BPF_MAP_UPDATE_ELEM = 2
BPF_MAP_DELETE_ELEM = 3
BPF_OBJ_GET = 7
BPF_MAP_GET_FD_BY_ID = 14
BPF_MAP_LOOKUP_BATCH = 24
BPF_MAP_UPDATE_BATCH = 26

BPF_MAP_TYPE_ARRAY = 2  # enum bpf_map_type
BPF_F_INNER_MAP = 0x1000

# members of union bpf_attr
ELEM = struct.Struct("=IIQQQ")  # map_fd, -, key, value, flags
BATCH = struct.Struct("=QQQQIIQQ")  # in_batch, out_batch, keys, values, count, map_fd, flags twice


def address_of(buffer):
    return ctypes.addressof(buffer)


@contextlib.contextmanager
def pinned(path):
    """A descriptor of what is pinned there."""
    name = ctypes.create_string_buffer(os.fsencode(path))
    attr = struct.pack("=QII", address_of(name), 0, 0)
    fd = bpf(BPF_OBJ_GET, attr, len(attr))
    try:
        yield fd
    finally:
        os.close(fd)


def element(command, fd, key, value):
    key = ctypes.create_string_buffer(key, len(key))
    attr = ELEM.pack(fd, 0, address_of(key), address_of(value) if value else 0, 0)
    bpf(command, attr, len(attr))


def update(fd, key, value):
    element(BPF_MAP_UPDATE_ELEM, fd, key, ctypes.create_string_buffer(value, len(value)))


def update_all(fd, entries):
    """Writes many at once. Of a map of maps each by itself takes as long as the kernel needs to see that no program
    uses the old one."""
    keys, values = (ctypes.create_string_buffer(b"".join(column)) for column in zip(*entries))
    attr = ctypes.create_string_buffer(
        BATCH.pack(0, 0, address_of(keys), address_of(values), len(entries), fd, 0, 0), BATCH.size
    )
    bpf(BPF_MAP_UPDATE_BATCH, attr, BATCH.size)


def delete(fd, key):
    element(BPF_MAP_DELETE_ELEM, fd, key, None)


@contextlib.contextmanager
def inner_array(entries, size, is_sized):
    """A descriptor of a new one, of so many values of that size, for a map of maps; for one where these differ in the
    number of values, if `is_sized`."""
    attr = struct.pack("=IIIII", BPF_MAP_TYPE_ARRAY, 4, size, entries, BPF_F_INNER_MAP if is_sized else 0)
    fd = bpf(BPF_MAP_CREATE, attr, len(attr))
    try:
        yield fd
    finally:
        os.close(fd)


def rings_of(size):
    """The map that rings with so many slots are in."""
    return "rings" if size == 65537 else "sized_rings"


def array_values(fd, count, size):
    """The octets of an array's first values, each of that size; of a per-CPU array, that of all processors' together."""
    keys, values = (ctypes.create_string_buffer(count * one) for one in (4, size))
    behind = ctypes.create_string_buffer(4)
    attr = ctypes.create_string_buffer(
        BATCH.pack(0, *map(address_of, (behind, keys, values)), count, fd, 0, 0), BATCH.size
    )
    bpf(BPF_MAP_LOOKUP_BATCH, attr, BATCH.size)
    return values.raw


def inner_values(outer, key, count, size):
    """The same of the array that a map of maps has under the key."""
    number = ctypes.create_string_buffer(4)
    element(BPF_MAP_LOOKUP_ELEM, outer, key, number)
    attr = struct.pack("=4sIII", number.raw, 0, 0, 0)
    fd = bpf(BPF_MAP_GET_FD_BY_ID, attr, len(attr))
    try:
        return array_values(fd, count, size)
    finally:
        os.close(fd)


def run_control(fd):
    """Runs a program without arguments. Returns what it returns."""
    attr = ctypes.create_string_buffer(TEST_RUN.size)
    struct.pack_into("=I", attr, 0, fd)
    bpf(BPF_PROG_TEST_RUN, attr, TEST_RUN.size)
    return struct.unpack_from("=I", attr, 4)[0]
