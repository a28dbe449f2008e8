# SPDX-License-Identifier: GPL-2.0-only
"""Pinned maps and control programs by bpf(2) itself, for so many entries that bpftool would take
minutes."""
import contextlib
import ctypes
import os
import struct

from progrun import BPF_PROG_TEST_RUN, TEST_RUN, bpf

# enum bpf_cmd of linux/bpf.h
BPF_MAP_LOOKUP_ELEM = 1
BPF_MAP_UPDATE_ELEM = 2
BPF_MAP_DELETE_ELEM = 3
BPF_OBJ_GET = 7
BPF_MAP_GET_FD_BY_ID = 14
BPF_MAP_LOOKUP_BATCH = 24

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


def delete(fd, key):
    element(BPF_MAP_DELETE_ELEM, fd, key, None)


def inner_values(outer, key, count, size):
    """The octets of all values of the array that a map of maps has under the key."""
    number = ctypes.create_string_buffer(4)
    element(BPF_MAP_LOOKUP_ELEM, outer, key, number)
    attr = struct.pack("=4sIII", number.raw, 0, 0, 0)
    fd = bpf(BPF_MAP_GET_FD_BY_ID, attr, len(attr))
    keys, values = (ctypes.create_string_buffer(count * one) for one in (4, size))
    behind = ctypes.create_string_buffer(4)
    attr = ctypes.create_string_buffer(
        BATCH.pack(0, *map(address_of, (behind, keys, values)), count, fd, 0, 0), BATCH.size
    )
    try:
        bpf(BPF_MAP_LOOKUP_BATCH, attr, BATCH.size)
    finally:
        os.close(fd)
    return values.raw


def run_control(fd):
    """Runs a program without arguments. Returns what it returns."""
    attr = ctypes.create_string_buffer(TEST_RUN.size)
    struct.pack_into("=I", attr, 0, fd)
    bpf(BPF_PROG_TEST_RUN, attr, TEST_RUN.size)
    return struct.unpack_from("=I", attr, 4)[0]
