# SPDX-License-Identifier: GPL-2.0-only
"""Frames through a loaded program, by bpf(2) itself.

`bpftool prog run` wants a file for each frame and answers in JSON; this takes a tenth of its time.
The kernel does not take frames below ETH_HLEN (14 octets), nor above what fits into a page.
"""
import ctypes
import errno
import os
import platform
import struct
import threading

NR_BPF = {"x86_64": 321, "aarch64": 280}
# enum bpf_cmd of linux/bpf.h
BPF_OBJ_GET = 7
BPF_PROG_TEST_RUN = 10
BPF_PROG_GET_FD_BY_ID = 13

CLONE_NEWNET = 0x40000000

# union bpf_attr, the member `test` up to ctx_out: prog_fd, retval, data_size_in, data_size_out,
# data_in, data_out, repeat, duration, ctx_size_in, ctx_size_out, ctx_in, ctx_out
TEST_RUN = struct.Struct("=IIIIQQIIIIQQ")
# struct xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex
XDP_MD = struct.Struct("=6I")
ROOM = 4096  # no frame is larger, before or after

libc = ctypes.CDLL(None, use_errno=True)


def checked(function, *arguments):
    """Calls it in libc until it is not interrupted. Returns what it does."""
    while (result := function(*arguments)) == -1:
        error = ctypes.get_errno()
        if error not in (errno.EINTR, errno.EAGAIN):
            raise OSError(error, os.strerror(error))
    return result


def bpf(command, attr, size):
    number = ctypes.c_long(NR_BPF[platform.machine()])
    return checked(libc.syscall, number, ctypes.c_long(command), attr, ctypes.c_long(size))


def program_fd(program):
    """A descriptor of the program with that id."""
    attr = struct.pack("=IIII", program, 0, 0, 0)
    return bpf(BPF_PROG_GET_FD_BY_ID, attr, len(attr))


BPF_F_TEST_XDP_LIVE_FRAMES = 2  # Linux 5.18
# And on: flags, cpu, batch_size
LIVE_RUN = struct.Struct("=IIIIQQIIIIQQIII")


def send(path, frame, count, ifindex, netns):
    """Runs the pinned program for so many copies of the frame, which go where it says: out of interfaces, really."""

    def inside(_):
        name = ctypes.create_string_buffer(os.fsencode(path))
        attr = struct.pack("=QII", ctypes.addressof(name), 0, 0)
        fd = bpf(BPF_OBJ_GET, attr, len(attr))
        data = ctypes.create_string_buffer(frame, len(frame))
        context = ctypes.create_string_buffer(XDP_MD.pack(0, len(frame), 0, ifindex, 0, 0))
        places = ctypes.addressof(data), ctypes.addressof(context)
        attr = LIVE_RUN.pack(
            fd, 0, len(frame), 0, places[0], 0, count, 0, XDP_MD.size, 0, places[1], 0, BPF_F_TEST_XDP_LIVE_FRAMES, 0, 0
        )
        try:
            bpf(BPF_PROG_TEST_RUN, ctypes.create_string_buffer(attr, len(attr)), len(attr))
        finally:
            os.close(fd)

    in_netns(netns, inside)


def run_here(fd, frames, ifindex):
    """In the calling thread's network namespace, which must have the interface."""
    attr, context = ctypes.create_string_buffer(TEST_RUN.size), ctypes.create_string_buffer(24)
    data_in, data_out = ctypes.create_string_buffer(ROOM), ctypes.create_string_buffer(ROOM)
    places = [ctypes.addressof(one) for one in (data_in, data_out, context)]
    data, out = (memoryview(one).cast("B") for one in (data_in, data_out))
    results = []
    for frame in frames:
        size = len(frame)
        data[:size] = frame
        XDP_MD.pack_into(context, 0, 0, size, 0, ifindex, 0, 0)
        TEST_RUN.pack_into(
            attr, 0, fd, 0, size, ROOM, places[0], places[1], 1, 0, XDP_MD.size, 0, places[2], 0
        )
        bpf(BPF_PROG_TEST_RUN, attr, TEST_RUN.size)
        _, verdict, _, size = struct.unpack_from("=IIII", attr)
        results.append((verdict, bytes(out[:size])))
    return results


def in_netns(netns, work):
    """
    Calls work(results) there. A thread goes into the namespace for that, and ends, so that the caller's never changes
    and nothing keeps the namespace. Returns the results.
    """
    results, failures = [], []

    def inside():
        try:
            with open(netns, "rb") as namespace:
                checked(libc.setns, namespace.fileno(), CLONE_NEWNET)
            work(results)
        except Exception as failure:  # pylint: disable=broad-except # raised again by the caller
            failures.append(failure)

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    for failure in failures:
        raise failure
    return results


def run(program, frames, ifindex, netns, cpu=None):
    """What the program with that id makes of each frame, as if it came in by the interface of the network namespace, on
    that processor or on any: a list of its return value and the frame."""

    def inside(results):
        if cpu is not None:
            os.sched_setaffinity(0, {cpu})  # the thread's
        fd = program_fd(program)
        try:
            results.extend(run_here(fd, frames, ifindex))
        finally:
            os.close(fd)

    return in_netns(netns, inside)
