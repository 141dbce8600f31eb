"""Which of this machine's addresses and interfaces reach another one. No torch in here."""

from __future__ import annotations

import fcntl
import socket
import struct

_SIOCGIFADDR = 0x8915
_ANY_PORT = 9  # nothing is sent there


def address_towards(host: str) -> str | None:
    """The address of this machine that ``host`` would see; None where there is no way to it.

    A machine's own name is of no use for this: Debian, for one, lets it stand for a loopback
    address.
    """
    try:
        family, _, _, _, there = socket.getaddrinfo(host, _ANY_PORT, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(there)  # chooses a way, and sends nothing
            return probe.getsockname()[0]
    except OSError:
        return None


def interface_towards(host: str) -> str | None:
    """The name of the interface that leads to ``host``, such as ``eth0``; None if unknown."""
    address = address_towards(host)
    if address is None:
        return None
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        for _, name in socket.if_nameindex():
            try:
                request = struct.pack("256s", name.encode())
                found = fcntl.ioctl(asked.fileno(), _SIOCGIFADDR, request)[20:24]
            except OSError:  # an interface without an address
                continue
            own = socket.inet_ntoa(found)
            if own == address or (own.startswith("127.") and address.startswith("127.")):
                return name
    return None


def hold_port() -> socket.socket:
    """A free TCP port of this machine that stays free for one server, until it is closed.

    The socket is bound and does not listen. The kernel then gives the port to nobody, save to a
    server that binds it with SO_REUSEADDR, as torch's store does.
    """
    for family, anywhere in ((socket.AF_INET6, "::"), (socket.AF_INET, "0.0.0.0")):
        try:
            held = socket.socket(family)
        except OSError:  # a machine without IPv6
            continue
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            held.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)  # IPv4 as well
        held.bind((anywhere, 0))
        return held
    raise OSError("this machine has neither IPv6 nor IPv4")
