"""Parse ``spec.routing`` of an ``EgressGateway``, which names the router of its packets."""

from __future__ import annotations

from collections.abc import Sequence

from cni.kernel import ids

from . import prefixes
from .fields import Fields, Report
from .model import Routing
from .prefixes import Family

LENGTHS: dict[Family, str] = {4: "prefixLength", 6: "prefixLength6"}
"""Fields with the length of the prefix that is on-link, by family."""
NO_ROUTERS = ("0.0.0.0/8", "127.0.0.0/8", "224.0.0.0/3", "::/127", "::ffff:0:0/96", "ff00::/8")
"""Prefixes in which no router has an address. The kernel refuses most routes by such an address, so each round would
fail.
"""
LOCAL_TABLE = 255
MAX_TABLE = 2**32 - 1
DECKHOUSE = "spec.sourceIP.virtualIPAddress.routingTableName"


def routing(spec: Fields, addresses: Sequence[str], table_name: str) -> Routing | None:
    """Return the routing of a gateway; None if the node's main table decides.

    ``addresses``: source addresses of the gateway; in basic mode none, which means one of IPv4. ``table_name``:
    Deckhouse's ``routingTableName``, or an empty text.
    """
    fields = spec.fields("routing")
    if fields is None:
        return _named(spec, table_name) if table_name else None
    if table_name:
        spec.add("routing", f"cannot be combined with {DECKHOUSE}", "either of the two")
    hops = tuple(_hop(fields, path, text) for path, text in fields.texts("nextHops"))
    table = fields.whole("table", 0, 1, MAX_TABLE)
    lengths = {family: _length(fields, family, hops) for family in LENGTHS}
    if (table == 0) == (not fields.value.get("nextHops")):
        fields.add(
            "nextHops",
            "is required" if not table else "cannot be combined with table",
            "either nextHops or table",
        )
    _check_families(fields, [hop for hop in hops if hop], addresses, bool(table))
    if table:
        _check_table(fields.report, table, fields.at("table"))
    fields.end()
    return Routing(tuple(hop for hop in hops if hop), lengths[4], lengths[6], table)


def _named(spec: Fields, name: str) -> Routing:
    """Return the routing by the table with this name, or with this number."""
    if not name.isascii() or not name.isdigit() or len(name) > len(str(MAX_TABLE)):
        return Routing(table_name=name)
    _check_table(spec.report, int(name), DECKHOUSE)
    return Routing(table=int(name))


def _hop(fields: Fields, path: str, text: str) -> str:
    """Return a next hop in canonical form; empty, and a problem, if it is none."""
    try:
        hop = prefixes.address(text)
    except ValueError:
        fields.report.add(path, f"{text!r} is not an IP address", "as 198.51.100.1")
        return ""
    family, number = prefixes.number(hop)
    spans = map(prefixes.span, NO_ROUTERS)
    if any(span.family == family and span.first <= number <= span.last for span in spans):
        fields.report.add(path, f"{hop} cannot be the address of a router", "as 198.51.100.1")
        return ""
    return hop


def _length(fields: Fields, family: Family, hops: Sequence[str]) -> int:
    """Return the length of the prefix that is on-link; 0: none."""
    name = LENGTHS[family]
    length = fields.whole(name, 0, 1, prefixes.WIDTH[family])
    if length and not any(hop and prefixes.number(hop)[0] == family for hop in hops):
        fields.add(name, f"has no meaning without an IPv{family} address in nextHops")
    return length


def _check_families(fields: Fields, hops: Sequence[str], addresses: Sequence[str], by_table: bool) -> None:
    """Report a family with several next hops, or with none though the gateway has an address of this family."""
    shown = {prefixes.number(address)[0] for address in addresses} or {4}
    for family in LENGTHS:
        mine = [hop for hop in hops if prefixes.number(hop)[0] == family]
        if len(mine) > 1:
            fields.add("nextHops", f"names {len(mine)} IPv{family} addresses", "one for each family")
        elif not mine and family in shown and not by_table and hops:
            fields.add("nextHops", f"names no IPv{family} address, and the gateway shows one of that family")
    for hop in set(hops) & set(addresses):
        fields.add("nextHops", f"{hop} is an address of the gateway itself", "the router's address")


def _check_table(report: Report, table: int, path: str) -> None:
    if fault := table_fault(table):
        report.add(path, *fault)


def table_fault(table: int) -> tuple[str, ...]:
    """Return why a gateway cannot use a routing table, with a hint if there is one; nothing if it can."""
    if not 0 < table <= MAX_TABLE or table == LOCAL_TABLE:
        return (f"{table} is no table with routes to the outside",)
    if ids.is_own_table(table):
        return f"{table} is one of egress-gateway's own tables", "another program's table"
    return ()
