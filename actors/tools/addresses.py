"""Which addresses belong to the public internet."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

import psutil

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

# https://www.iana.org/assignments/iana-ipv4-special-registry; written out, as `is_global` differs between Pythons
_SPECIAL_V4 = [
    IPv4Network(network)
    for network in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "168.63.129.16/32",  # not in the registry: a host's own agent in Azure
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/3",  # multicast, reserved, broadcast
    )
]
_GLOBAL_V6 = IPv6Network("2000::/3")
# https://www.iana.org/assignments/iana-ipv6-special-registry, as far as it lies inside 2000::/3
_SPECIAL_V6 = [
    IPv6Network(network)
    for network in (
        "2001::/23",  # Teredo among others
        "2001:db8::/32",
        "2002::/16",  # 6to4, which hides an IPv4 address and is retired
        "3fff::/20",
    )
]
_HOLDS_V4 = [IPv6Network(network) for network in ("::ffff:0:0/96", "64:ff9b::/96")]  # mapped, NAT64


def is_public(address: Address) -> bool:
    """Whether packets to `address` leave for the internet, also when an IPv6 address stands for an IPv4 one."""
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _SPECIAL_V4)
    if any(address in network for network in _HOLDS_V4):
        return is_public(IPv4Address(int(address) & 0xFFFF_FFFF))
    return address in _GLOBAL_V6 and not any(address in network for network in _SPECIAL_V6)


def own_networks() -> list[Network]:
    """The networks that this machine is in: with IPv6, its neighbours at home have public addresses too."""
    entries = [entry for interface in psutil.net_if_addrs().values() for entry in interface if entry.netmask]
    networks = (parse_network(_with_prefix(entry.address, entry.netmask or "")) for entry in entries)
    return [network for network in networks if network is not None]


def parse_address(text: str) -> Address | None:
    """Read an address as such, without a zone."""
    try:
        return ip_address(text) if "%" not in text else None
    except ValueError:
        return None


def parse_network(text: str) -> Network | None:
    try:
        return ip_network(text, strict=False)
    except ValueError:
        return None


def _with_prefix(address: str, netmask: str) -> str:
    mask = parse_address(netmask)
    return f"{address.partition('%')[0]}/{int(mask).bit_count()}" if mask is not None else ""
