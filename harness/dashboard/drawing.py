"""Draws the panels of a row of the dashboard into one picture.

Needs the dependency group `drawing`, which `make dashboard-images` installs.
"""

from io import BytesIO
from math import ceil
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
from matplotlib import patches, ticker
from matplotlib.figure import Figure
from PIL import Image

from harness.dashboard.answers import Line
from harness.dashboard.legends import LEFT, highest, highest_first, in_legend
from harness.dashboard.model import Panel, Row, States
from harness.dashboard.scales import beyond, stretches, top, with_gaps, words
from harness.dashboard.shown import Shown

mpl.rcParams.update({"font.size": 8, "axes.spines.top": False, "axes.spines.right": False})

_COLUMNS: Final = 24  # of the page in Grafana
_WIDTH: Final = 12.0  # inches of a picture; those of a panel and around it follow
_HEIGHT: Final = 2.7
_ABOVE, _BELOW, _LEFT, _RIGHT = 0.32, 0.72, 0.55, 0.12
_LETTER, _HANDLE = 0.058, 0.4  # inches that a letter of a legend takes, and what stands before a name
_DOTS: Final = 100  # an inch
_SHADES: Final = 128
"""Colors of a picture: fewer make a smaller file, and a drawing has no more."""
_COLORS: Final = {"critical": "#c4162a", "warning": "#e0752d"}
_GOOD, _BAD, _AWAY, _GREY = "#56a64b", "#c4162a", "#e8e8ee", "#777777"
_MOST_ROWS: Final = 3
"""In a legend."""
_LABELLED_SECONDS: Final = 60.0
"""A shorter outage has no room for its name."""


def draw_row(row: Row, shown: Shown, path: Path) -> None:
    """Write a picture of all panels of a row, as PNG."""
    columns = _COLUMNS // row.width
    rows = ceil(len(row.panels) / columns)
    width, height = _WIDTH / columns, _HEIGHT * rows
    figure = Figure(figsize=(_WIDTH, height))
    for number, panel in enumerate(row.panels):
        down, across = divmod(number, columns)
        box = (
            (across * width + _LEFT) / _WIDTH,
            ((rows - down - 1) * _HEIGHT + _BELOW) / height,
            (width - _LEFT - _RIGHT) / _WIDTH,
            (_HEIGHT - _ABOVE - _BELOW) / height,
        )
        _draw(figure.add_axes(box), panel, shown, width - _LEFT)
    _save(figure, path)


def _draw(axes: Any, panel: Panel, shown: Shown, width: float) -> None:
    axes.set_title(panel.title, loc="left", fontsize=9, fontweight="bold")
    axes.set_xlim(0, shown.minutes(shown.span.until))
    axes.xaxis.set_major_locator(ticker.MaxNLocator(6, integer=True))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g} min")
    axes.tick_params(colors=_GREY, labelcolor="black", labelsize=7)
    _mark(axes, panel, shown)
    if panel.states is None:
        _draw_lines(axes, panel, shown, width)
    else:
        _draw_states(axes, panel.states, shown.lines[panel.title], shown)


def _draw_lines(axes: Any, panel: Panel, shown: Shown, width: float) -> None:
    lines = highest_first(shown.lines[panel.title])
    end = top(highest(lines), panel.limits)
    axes.set_ylim(0, end)
    axes.yaxis.set_major_locator(ticker.MaxNLocator(4))
    axes.yaxis.set_major_formatter(lambda value, _: words(panel.unit, float(f"{value:.3g}")))
    axes.grid(axis="y", color="#dddddd", linewidth=0.5)
    axes.set_axisbelow(True)
    for number, line in reversed(list(enumerate(lines))):
        values = with_gaps(line.values, shown.span.step)
        times = [shown.minutes(moment) for moment, _ in values]
        color = mpl.color_sequences["tab10"][number % 10]
        axes.plot(times, [value for _, value in values], color=color, linewidth=1.2, label=line.name)
    for limit in panel.limits:
        axes.axhline(limit.value, color=_COLORS[limit.severity], linestyle="--", linewidth=1)
    far = [f"; line at {words(panel.unit, limit.value)}" for limit in beyond(end, panel.limits)]
    axes.set_title("".join([panel.unit.words, *far]), loc="right", fontsize=7, color=_GREY)
    if not lines:
        axes.text(0.5, 0.5, panel.empty or "no data", transform=axes.transAxes, ha="center", color=_GREY)
        return
    handles, labels = axes.get_legend_handles_labels()
    names = in_legend(lines, width=width, letter=_LETTER, before=_HANDLE, rows=_MOST_ROWS)
    found = dict(zip(labels, handles, strict=True))
    left = [LEFT.format(names.left)] if names.left else []
    own = [*(found[name] for name in names.shown), *(patches.Patch(alpha=0) for _ in left)]
    _legend(axes, own, [*names.shown, *left], names.columns)


def _draw_states(axes: Any, states: States, lines: list[Line], shown: Shown) -> None:
    for number, line in enumerate(reversed(lines)):
        for each in stretches(line.values, shown.span.step):
            begin, end = shown.minutes(each.begin), shown.minutes(each.end)
            axes.broken_barh([(begin, end - begin)], (number - 0.4, 0.8), color=_GOOD if each.value else _BAD)
        place = {"transform": axes.get_yaxis_transform(), "va": "center"}
        axes.text(0.02, number, line.name, fontsize=7, color="white", **place)
    axes.set_yticks([])
    axes.set_ylim(-0.6, len(lines) - 0.2)
    handles = [patches.Patch(color=color) for color in (_GOOD, _BAD)]
    _legend(axes, handles, [states.good, states.bad], 2)


def _legend(axes: Any, handles: list[Any], names: list[str], columns: int) -> None:
    axes.legend(
        handles, names, ncols=columns, loc="upper left", bbox_to_anchor=(-0.02, -0.12), fontsize=7,
        frameon=False, handlelength=1.2, handletextpad=0.5, columnspacing=1.0, borderaxespad=0.2,
    )  # fmt: skip


def _mark(axes: Any, panel: Panel, shown: Shown) -> None:
    """Mark when a server was away, in grey, and when an alert about the panel fired, by a red bar on top."""
    across = axes.get_xaxis_transform()
    for outage in shown.outages:
        begin, end = shown.minutes(outage.begin), shown.minutes(outage.end)
        axes.axvspan(begin, end, color=_AWAY, zorder=0, linewidth=0)
        if panel.states is None and outage.end - outage.begin >= _LABELLED_SECONDS:
            away = f"{outage.server}\naway"
            axes.text((begin + end) / 2, 0.97, away, transform=across, fontsize=6, color=_GREY, ha="center",
                      va="top")  # fmt: skip
    for each in shown.firing(panel):
        begin, end = shown.minutes(each.begin), shown.minutes(each.end)
        axes.plot([begin, end], [1, 1], color=_BAD, linewidth=4, transform=across, clip_on=False,
                  solid_capstyle="butt")  # fmt: skip


def _save(figure: Figure, path: Path) -> None:
    drawn = BytesIO()
    figure.savefig(drawn, format="png", dpi=_DOTS)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.open(drawn).convert("RGB").quantize(_SHADES, dither=Image.Dither.NONE).save(path, optimize=True)
