"""Refuse every connection beyond the loopback, in this process and, through PYTHONPATH, in every Python that
it starts.

`tests/conftest.py` puts this directory on `PYTHONPATH`, so that notebook kernels and command-line tests are
offline too. Python imports a module of this name by itself when it starts.
"""

from __future__ import annotations

import ipaddress
import socket
from typing import Any

_connect = socket.socket.connect
_connect_ex = socket.socket.connect_ex


def refuse_beyond_loopback(address: object) -> None:
    """Raise ConnectionRefusedError for an address that is not on this machine."""
    if not isinstance(address, tuple):  # a Unix socket stays on this machine
        return
    host = str(address[0]).split("%")[0]
    try:
        loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        raise ConnectionRefusedError(f"tests must not use the network, but something connected to {address}")


def _guarded_connect(self: socket.socket, address: Any) -> None:
    refuse_beyond_loopback(address)
    return _connect(self, address)


def _guarded_connect_ex(self: socket.socket, address: Any) -> int:
    refuse_beyond_loopback(address)
    return _connect_ex(self, address)


socket.socket.connect = _guarded_connect
socket.socket.connect_ex = _guarded_connect_ex
