"""What dockerd leaves in the machine's packet filter, found by comparing it with what was there before.

Only decisions are made here; `daemon` carries them out. A rule is dockerd's if it was not there before
dockerd started, and names one of dockerd's chains, bridges or networks. All other rules stay, also those
that somebody has added meanwhile.
"""

import ipaddress
import re
import shlex
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from itertools import pairwise

CHAIN_PREFIX = "DOCKER"
# docker0, and one bridge for each other network, named after the first digits of its id.
_BRIDGE = re.compile(r"docker0|br-[0-9a-f]{12}")


@dataclass(frozen=True)
class Table:
    """One table as iptables-save prints it: the policy of each chain ("-" without one), and the rules."""

    chains: dict[str, str] = field(default_factory=dict)
    rules: list[str] = field(default_factory=list)


def parse(saved: str) -> dict[str, Table]:
    """Read the output of iptables-save."""
    tables: dict[str, Table] = {}
    table = Table()
    for line in saved.splitlines():
        if line.startswith("*"):
            table = tables.setdefault(line[1:], Table())
        elif line.startswith(":"):
            chain, policy = line[1:].split()[:2]
            table.chains[chain] = policy
        elif line.startswith("-A "):
            table.rules.append(line)
    return tables


def is_bridge(link: str) -> bool:
    """Return whether a network interface has the name of a bridge of dockerd's."""
    return _BRIDGE.fullmatch(link) is not None


def removal(
    before: str, after: str, *, bridges: Collection[str], networks: Collection[str]
) -> list[list[str]]:
    """Return the arguments of the iptables commands that take dockerd's rules and chains away again."""
    commands: list[list[str]] = []
    old_tables = parse(before)
    for name, table in parse(after).items():
        old = old_tables.get(name, Table())
        chains = [
            chain for chain in table.chains if chain.startswith(CHAIN_PREFIX) and chain not in old.chains
        ]
        names = {*chains, *bridges}
        ranges = [ipaddress.ip_network(network, strict=False) for network in networks]
        for rule in table.rules:
            words = shlex.split(rule)
            inside = words[1] in chains  # goes with its chain
            if rule not in old.rules and not inside and (names & set(words) or _touches(words, ranges)):
                commands.append(["-t", name, "-D", *words[1:]])
        # Chains that name one another can only be deleted when all of them are empty.
        commands += [["-t", name, "-F", chain] for chain in chains]
        commands += [["-t", name, "-X", chain] for chain in chains]
        if table.chains.get("FORWARD") == "DROP" and old.chains.get("FORWARD", "ACCEPT") == "ACCEPT":
            commands.append(["-t", name, "-P", "FORWARD", "ACCEPT"])
    return commands


def _touches(words: list[str], ranges: list[ipaddress.IPv4Network | ipaddress.IPv6Network]) -> bool:
    """Return whether a rule is about addresses inside one of the networks, and about no others."""
    addresses = list(_addresses(words))
    return bool(addresses) and all(
        any(address.version == network.version and address.subnet_of(network) for network in ranges)  # type: ignore[arg-type]
        for address in addresses
    )


def _addresses(words: list[str]) -> Iterator[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    for option, value in pairwise(words):
        if option in {"-s", "-d"}:
            yield ipaddress.ip_network(value, strict=False)
