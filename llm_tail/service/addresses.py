"""Addresses: which name was asked for, and who can reach it."""

from __future__ import annotations

import ipaddress


def host_of(header: str) -> str:
    """Return the name in a Host header, without the port, in small letters.

    Examples
    --------
    >>> host_of("LocalHost:8000"), host_of("[::1]:80"), host_of("127.0.0.1")
    ('localhost', '::1', '127.0.0.1')
    """
    name = header.strip().lower()
    if name.startswith("["):
        return name[1:].partition("]")[0]
    return name.partition(":")[0]


def is_address(host: str) -> bool:
    """Say whether a host is a bare address: no name that could be made to point at us."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """Say whether only this machine can reach an address.

    Examples
    --------
    >>> is_loopback("127.0.0.1"), is_loopback("localhost"), is_loopback("0.0.0.0")
    (True, True, False)
    """
    return host == "localhost" or (is_address(host) and ipaddress.ip_address(host).is_loopback)
