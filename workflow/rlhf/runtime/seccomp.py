"""A filter on the system calls of this process and of all that it becomes or starts (Linux)."""

from __future__ import annotations

import ctypes
import os
import struct

from rlhf.errors import RlhfError

_FCHMOD = {"x86_64": 91, "aarch64": 52}
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 38, 22, 2
_LOAD_WORD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_SUCCEED, _ALLOW = 0x0005_0000, 0x7FFF_0000  # SECCOMP_RET_ERRNO with errno 0; SECCOMP_RET_ALLOW


def ignore_fchmod() -> None:
    """From now on ``fchmod`` succeeds and changes nothing: a file keeps the mode of its creation.

    Raises:
        RlhfError: the kernel has no such filter, or the machine is of an unknown kind.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    number = _FCHMOD.get(os.uname().machine, -1)
    # Classic BPF (``linux/filter.h``): the first word of its input is the number of the call.
    filters = (
        (_LOAD_WORD, 0, 0, 0),
        (_JUMP_IF_EQUAL, 0, 1, number),
        (_RETURN, 0, 0, _SUCCEED),
        (_RETURN, 0, 0, _ALLOW),
    )
    if number < 0:
        raise _impossible(f"the machine is of the kind {os.uname().machine}")
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *one) for one in filters))
    program = struct.pack("HP", len(filters), ctypes.addressof(code))
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(
        _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, program, 0, 0
    ):
        raise _impossible(os.strerror(ctypes.get_errno()))


def _impossible(why: str) -> RlhfError:
    return RlhfError(
        f"Other users of this machine can't be kept from shared memory: {why}.",
        where="prctl(PR_SET_SECCOMP)",
        expected="Linux on " + " or ".join(_FCHMOD) + ", with seccomp filters",
        hint="set scoring: local, which needs no server",
    )
