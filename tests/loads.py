#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
"""tests/loads.py OBJECT...: loads each BPF object and lets it go again. Of each program it prints a line, "OBJECT
PROGRAM N M": so many instructions has the kernel's verifier looked at, so many octets is the machine code. Exit
status 1 if an object is not taken; then the end of what the kernel said is on stderr."""
import ctypes
import os
import platform
import re
import struct
import subprocess
import sys

sys.dont_write_bytecode = True

from bpfmaps import pinned
from progrun import bpf, libc

BPF_OBJ_GET_INFO_BY_FD = 15
INFO_SIZE = 232  # of struct bpf_prog_info (linux/bpf.h), as Linux 5.16 has it
JITED_LENGTH, VERIFIED = 16, 216  # where jited_prog_len and verified_insns are
CLONE_NEWNS = 0x20000
MS_REC, MS_PRIVATE = 0x4000, 0x40000
BPFFS = "/sys/fs/bpf"
CHATTER = re.compile(r"^libbpf: (elf|sec|map|loading|object|unpinned|BTF)|found (map|program|extern)|^mark_precise")


def program_figures(path):
    """Instructions verified and octets of machine code of the program that is pinned there."""
    info = ctypes.create_string_buffer(INFO_SIZE)
    with pinned(path) as fd:
        attr = struct.pack("=IIQ", fd, INFO_SIZE, ctypes.addressof(info))
        bpf(BPF_OBJ_GET_INFO_BY_FD, attr, len(attr))
    return tuple(struct.unpack_from("=I", info, at)[0] for at in (VERIFIED, JITED_LENGTH))


def load(path, *options):
    command = ["bpftool", *options, "prog", "loadall", path, f"{BPFFS}/programs"]
    return subprocess.run(command, text=True, capture_output=True, check=False, errors="replace")


def show(path):
    """Prints what one object is to the kernel. Returns whether it took it."""
    if load(path).returncode == 0:
        for name in sorted(os.listdir(f"{BPFFS}/programs")):
            print(path, name, *program_figures(f"{BPFFS}/programs/{name}"), flush=True)
        return True
    said = load(path, "-d")
    lines = [line for line in (said.stdout + said.stderr).splitlines() if not CHATTER.search(line)]
    print(f"{path} is not taken by Linux {platform.release()}:", *lines[-25:], sep="\n", file=sys.stderr)
    return False


def show_apart(path):
    """In a process with a BPF filesystem of its own, as the maps are pinned by name."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1] == 0
    try:
        if (
            libc.unshare(CLONE_NEWNS)
            or libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None)
            or libc.mount(b"bpf", BPFFS.encode(), b"bpf", 0, None)
        ):
            raise OSError(ctypes.get_errno(), "no BPF filesystem for a test of loading")
        os._exit(not show(path))
    except Exception as error:
        print(f"{path}: {error}", file=sys.stderr)
        os._exit(1)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    sys.exit(not all([show_apart(path) for path in sys.argv[1:]]))
