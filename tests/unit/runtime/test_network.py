from __future__ import annotations

import socket

import pytest

from rlhf.runtime.network import address_towards, hold_port, interface_towards


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.0.1.1"])
def test_the_way_to_oneself_is_the_loopback(host):
    assert address_towards(host).startswith("127.0.")
    assert interface_towards(host) == "lo"


def test_no_way():
    assert address_towards("no-such-host.invalid") is None
    assert interface_towards("no-such-host.invalid") is None


def test_a_held_port_is_kept_from_others_for_one_server():
    with hold_port() as held:
        port = held.getsockname()[1]
        for family, anywhere in ((socket.AF_INET, ""), (socket.AF_INET, "127.0.0.1")):
            with socket.socket(family) as other, pytest.raises(OSError, match="already in use"):
                other.bind((anywhere, port))
        with socket.create_server(("", port)):  # it sets SO_REUSEADDR, as torch does
            socket.create_connection(("127.0.0.1", port)).close()
            with pytest.raises(OSError, match="already in use"):
                socket.create_server(("", port))
