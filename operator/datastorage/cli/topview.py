"""Draws a look at the replicas for a terminal of 80 columns or more. It reads nothing."""

from collections.abc import Iterator, Sequence
from typing import Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from datastorage.cli.output import printable
from datastorage.cli.times import duration
from datastorage.cli.toprejected import RejectedLook
from datastorage.records.times import rfc3339
from datastorage.replicas.look import Look, ReplicaLook

_UNKNOWN: Final = "-"
_BAD: Final = "bold red"
_GOOD: Final = "green"
_HEADING: Final = "bold"
# Longer durations are shown without fractions.
_MINUTE_SECONDS: Final = 60
# Limits that clients have met are few; a person needs the first.
_MOST_LIMITS: Final = 6
# `datastorage rejected list` shows the whole reason.
_REASON_CHARACTERS: Final = 160

Cell = str | Text


def drawn(look: Look, rejected: RejectedLook | None) -> RenderableType:
    """Return the whole view. ``rejected`` is None where no archive is asked."""
    return Group(
        _title(look),
        "",
        _numbers(look),
        "",
        *_replicas(look.replicas),
        "",
        _states(look, rejected),
    )


def _title(look: Look) -> Text:
    number = len(look.replicas)
    title = Text("Data Storage", style=_HEADING, no_wrap=True, overflow="ellipsis")
    title.append(f"  replicas answering: {look.answering} of {number}", style="")
    title.stylize(_GOOD if look.answering == number else _BAD, len("Data Storage"))
    title.append(f"  {rfc3339(look.at, 'seconds')}", style="not bold")
    if look.rate_seconds is not None:
        title.append(f"  rates over {look.rate_seconds:.1f} s", style="not bold dim")
    return title


def _numbers(look: Look) -> Table:
    """Return rates, depths and lag beside each other."""
    rates, depths, lag = look.per_second, look.depths, look.lag_seconds
    columns: Sequence[tuple[str, Sequence[tuple[str, Cell]]]] = (
        ("RATES", (
            ("stored", _rate(rates.stored)),
            ("failed writes", _bad_rate(rates.failed_writes)),
            ("rejected", _bad_rate(rates.rejected)),
            ("status writes", _rate(rates.status_writes)),
            ("deletions", _rate(rates.deletions)),
            ("reads", _rate(rates.reads)),
            ("API requests", _rate(rates.requests)),
            ("with 5xx", _bad_rate(rates.server_errors)),
        )),
        ("RECORDS WAITING", (
            ("intake", _count(depths.intake)),
            ("unstored", _count(depths.unstored)),
            ("refused for now", _bad_count(depths.refused_for_now)),
            ("status queue", _count(depths.status_queue)),
            ("to be deleted", _count(depths.scheduled_deletions)),
            ("outbox", _count(depths.outbox_pending)),
            ("outbox, failed", _bad_count(depths.outbox_failed)),
        )),
        ("LAG", (
            ("stored, p95", _seconds(lag.created_to_stored_p95)),
            ("oldest unstored", _seconds(lag.oldest_unstored)),
            ("oldest in outbox", _seconds(lag.oldest_in_outbox)),
            ("loop held, p99", _seconds(lag.event_loop_held_p99)),
            ("standby", _seconds(lag.standby)),
        )),
    )  # fmt: skip
    table = Table(box=None, pad_edge=False, show_header=False)
    for _ in columns:
        table.add_column(no_wrap=True)
        table.add_column(justify="right", no_wrap=True)
    table.add_row(*(cell for title, _ in columns for cell in (Text(title, style=_HEADING), "")))
    for row in range(max(len(lines) for _, lines in columns)):
        table.add_row(
            *(cell for _, lines in columns for cell in (lines[row] if row < len(lines) else ("", "")))
        )
    return table


def _replicas(replicas: Sequence[ReplicaLook]) -> Iterator[RenderableType]:
    table = Table(box=None, pad_edge=False, header_style=_HEADING)
    table.add_column("REPLICA", overflow="fold")
    table.add_column("VERSION", no_wrap=True)
    for heading in ("UP", "STORED", "API", "INTAKE", "LOOP"):
        table.add_column(heading, justify="right", no_wrap=True)
    for replica in replicas:
        if replica.trouble is None:
            table.add_row(
                Text(printable(replica.name)),
                Text(printable(replica.version)),
                _UNKNOWN if replica.up_seconds is None else duration(replica.up_seconds),
                _rate(replica.stored_per_second),
                _rate(replica.requests_per_second),
                _count(replica.intake),
                _seconds(replica.event_loop_held_p99_seconds),
            )
    if table.rows:
        yield table
    for replica in replicas:
        if replica.trouble is not None:
            # In the columns of the table, a sentence would be broken into single words.
            yield Text(printable(f"{replica.name} gives no metrics: {replica.trouble}"), style=_BAD)


def _states(look: Look, rejected: RejectedLook | None) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style=_HEADING, no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("DEPENDENCIES", _dependencies(look))
    table.add_row("GUARDS", _guards(look))
    for name, text in _leases(look):
        table.add_row(name, text)
    table.add_row("LIMITS HIT", _limits(look))
    if rejected is not None:
        for row, line in enumerate(_rejected(rejected)):
            table.add_row("REJECTED" if not row else "", line)
    return table


def _dependencies(look: Look) -> Text:
    bad = []
    for dependency in look.dependencies:
        replicas = ", ".join(map(printable, dependency.away_for))
        if len(dependency.away_for) == look.answering:
            bad.append(f"{printable(dependency.name)} DOWN")
        elif replicas:
            bad.append(f"{printable(dependency.name)} DOWN for {replicas}")
    return _bad_first(bad, "up", [one.name for one in look.dependencies if not one.away_for])


def _guards(look: Look) -> Text:
    bad = [f"{printable(guard.name)} NOT in force" for guard in look.guards if not guard.in_force]
    return _bad_first(bad, "in force", [guard.name for guard in look.guards if guard.in_force])


def _bad_first(bad: Sequence[str], how: str, good: Sequence[str]) -> Text:
    parts = [Text(each, style=_BAD) for each in bad]
    if good:
        parts.append(Text(f"{how}: {', '.join(map(printable, good))}", style=_GOOD))
    return Text("; ").join(parts) if parts else Text(_UNKNOWN)


def _leases(look: Look) -> Iterator[tuple[str, Text]]:
    if not look.leases:
        yield "LEASES", Text(_UNKNOWN)
    for row, lease in enumerate(look.leases):
        name, holders = printable(lease.name), ", ".join(map(printable, lease.holders))
        text = (
            Text(f"{name} held by {holders}")
            if holders
            else Text(f"{name} held by NOBODY who answers", style=_BAD)
        )
        yield "LEASES" if not row else "", text


def _limits(look: Look) -> Text:
    hit = [limit for limit in look.limits if limit.since_start]
    hit.sort(key=lambda limit: (-limit.recently, -limit.since_start))
    if not hit:
        return Text("none since the start" if look.limits else _UNKNOWN)
    since = f"in the last {look.recent_seconds:.0f} s"
    parts = [
        Text(
            f"{printable(limit.name)} {limit.recently:,.0f} {since} ({limit.since_start:,.0f} in all)",
            style=_BAD if limit.recently else "",
        )
        for limit in hit[:_MOST_LIMITS]
    ]
    if len(hit) > _MOST_LIMITS:
        parts.append(Text(f"{len(hit) - _MOST_LIMITS} more"))
    return Text(", ").join(parts)


def _rejected(rejected: RejectedLook) -> Iterator[Text]:
    if rejected.trouble is not None:
        yield Text(printable(rejected.trouble), style=_BAD)
    elif not rejected.records:
        yield Text("none now", style=_GOOD)
    for line in rejected.records:
        reason = printable(line.reason)
        cut = f"{reason[:_REASON_CHARACTERS]}…" if len(reason) > _REASON_CHARACTERS else reason
        yield Text(f"{line.rejected_at} {line.kind} {printable(line.name)}: {cut}", style=_BAD)


def _rate(value: float | None) -> str:
    return _UNKNOWN if value is None else f"{value:,.1f}/s"


def _count(value: float | None) -> str:
    return _UNKNOWN if value is None else f"{value:,.0f}"


def _bad_rate(value: float | None) -> Text:
    return Text(_rate(value), style=_BAD if value else "")


def _bad_count(value: float | None) -> Text:
    return Text(_count(value), style=_BAD if value else "")


def _seconds(value: float | None) -> str:
    if value is None:
        return _UNKNOWN
    if value == 0:
        return "0 s"
    if value < 1:
        return f"{value * 1000:,.0f} ms"
    return f"{value:.1f} s" if value < _MINUTE_SECONDS else duration(value)
