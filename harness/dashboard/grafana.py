"""Builds the dashboard with the types of Grafana's own library, so that Grafana can read it."""

from itertools import count
from string import ascii_uppercase
from typing import Final

from grafana_foundation_sdk.builders import common, dashboard, statetimeline, timeseries
from grafana_foundation_sdk.builders.prometheus import Dataquery
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as commonmodels
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DashboardLink,
    DashboardLinkType,
    DataSourceRef,
    FieldColorModeId,
    Threshold,
    ThresholdsMode,
    ValueMap,
    ValueMappingResult,
    VariableOption,
    VariableRefresh,
    VariableSort,
)

from harness.dashboard.model import CHOSEN, INTERVAL, Limit, Panel, Row, States
from harness.dashboard.selectors import metrics_of
from harness.dashboard.table import ROWS
from harness.rules.rendering import RUNBOOK

TITLE: Final = "Data Storage"
UID: Final = "datastorage"
DOCUMENTATION: Final = RUNBOOK.removesuffix("/operations/runbook.md")
_SOURCE: Final = DataSourceRef(type_val="prometheus", uid="${datasource}")
_FIRING: Final = 'ALERTS{component="datastorage",alertstate="firing"}'
_COLORS: Final = {"critical": "red", "warning": "orange"}
_GOOD: Final = "green"
_HEIGHT: Final = 8
_ALL: Final = "$__all"


def dashboard_json() -> str:
    """Return the dashboard as Grafana imports it."""
    return JSONEncoder(indent=2, ensure_ascii=False).encode(_dashboard().build()) + "\n"


def _dashboard() -> dashboard.Dashboard:
    made = (
        dashboard.Dashboard(TITLE)
        .uid(UID)
        .description("The operator that archives AuditRecords and ActionTraces, and its REST API.")
        .tags(["datastorage"])
        .time("now-3h", "now")
        .refresh("30s")
        .timezone("browser")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .annotation(_firing_alerts())
        .link(_link("Runbook", "operations/runbook.md"))
        .link(_link("Panels", "operations/dashboard.md"))
        .link(_link("Metrics", "reference/metrics.md"))
    )
    _add_variables(made)
    numbers = count(1)
    for row in ROWS:
        made.with_row(dashboard.Row(row.title).id(next(numbers)))
        for panel in row.panels:
            made.with_panel(_panel(panel, row, next(numbers)))
    return made


def _add_variables(made: dashboard.Dashboard) -> None:
    """Add the choices of the reader, each of which narrows the next ones."""
    made.with_variable(dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus"))
    usual = VariableOption(selected=True, text="datastorage", value="datastorage")
    made.with_variable(_choice("job", "Job", "datastorage_build_info").current(usual))
    made.with_variable(_several("namespace", "Namespace", 'datastorage_build_info{job="$job"}'))
    made.with_variable(_several("pod", "Pod", 'datastorage_build_info{job="$job",namespace=~"$namespace"}'))
    made.with_variable(
        _several("lease", "Lease (shard)", 'datastorage_lease_held{job="$job",namespace=~"$namespace"}')
    )
    made.with_variable(
        dashboard.ConstantVariable("docs").label("Address of the documentation").value(DOCUMENTATION)
    )


def _choice(name: str, label: str, series: str) -> dashboard.QueryVariable:
    return (
        dashboard.QueryVariable(name)
        .label(label)
        .datasource(_SOURCE)
        .query(f"label_values({series}, {name})")
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(VariableSort.NATURAL_ASC)
    )


def _several(name: str, label: str, series: str) -> dashboard.QueryVariable:
    # The pattern for all of them also fits series without the label: not every Prometheus adds it.
    return (
        _choice(name, label, series)
        .multi(True)  # noqa: FBT003  # the builder has no names
        .include_all(True)  # noqa: FBT003
        .all_value(".*")
        .current(VariableOption(selected=True, text=["All"], value=[_ALL]))
    )


def _firing_alerts() -> dashboard.AnnotationQuery:
    return (
        dashboard.AnnotationQuery()
        .name("Firing alerts")
        .datasource(_SOURCE)
        .enable(True)  # noqa: FBT003  # the builder has no names
        .icon_color("red")
        .expr(_FIRING)
    )


def _panel(panel: Panel, row: Row, number: int) -> timeseries.Panel | statetimeline.Panel:
    made = _lines(panel) if panel.states is None else _states(panel.states)
    made.id(number).title(panel.title).description(f"{panel.meaning}\n\n**Normal:** {panel.normal}")
    made.unit(panel.unit.grafana).datasource(_SOURCE).span(row.width).height(_HEIGHT).links(_links(panel))
    if panel.empty:
        made.no_value(panel.empty)
    for letter, query in zip(ascii_uppercase, panel.queries, strict=False):
        target = Dataquery().datasource(_SOURCE).ref_id(letter).range().legend_format(query.legend)
        made.with_target(target.expr(query.of(CHOSEN, INTERVAL)))
    return made


def _lines(panel: Panel) -> timeseries.Panel:
    calculations = ["max", "lastNotNull"]
    legend = common.VizLegendOptions().display_mode(commonmodels.LegendDisplayMode.TABLE)
    placed = legend.placement(commonmodels.LegendPlacement.BOTTOM).show_legend(True)  # noqa: FBT003
    tooltip = common.VizTooltipOptions().mode(commonmodels.TooltipDisplayMode.MULTI)
    made = timeseries.Panel().min(0).fill_opacity(10).legend(placed.calcs(calculations))
    made.tooltip(tooltip.sort(commonmodels.SortOrder.DESCENDING))
    made.color_scheme(dashboard.FieldColor().mode(FieldColorModeId.PALETTE_CLASSIC))
    if panel.limits:
        dashed = common.GraphThresholdsStyleConfig().mode(commonmodels.GraphThresholdsStyleMode.DASHED)
        made.thresholds(_thresholds(panel.limits)).thresholds_style(dashed)
    return made


def _states(states: States) -> statetimeline.Panel:
    words = {
        "1": ValueMappingResult(text=states.good, color=_GOOD, index=0),
        "0": ValueMappingResult(text=states.bad, color=_COLORS["critical"], index=1),
    }
    made = statetimeline.Panel().mappings([ValueMap(options=words)]).merge_values(True)  # noqa: FBT003
    return made.show_value(commonmodels.VisibilityMode.NEVER).fill_opacity(80)


def _thresholds(limits: tuple[Limit, ...]) -> dashboard.ThresholdsConfig:
    """Return the lines; a color holds from its value upwards."""
    below = [limit for limit in limits if limit.beyond == "below"]
    steps = [Threshold(value=None, color=_COLORS[below[0].severity] if below else _GOOD)]
    for limit in sorted(limits, key=lambda limit: limit.value):
        color = _COLORS[limit.severity] if limit.beyond == "above" else _GOOD
        steps.append(Threshold(value=limit.value, color=color))
    return dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps)


def _links(panel: Panel) -> list[Builder[DashboardLink]]:
    metrics = metrics_of([query.of("", "5m") for query in panel.queries])
    # The metrics that every process has are on the page, but have no section of their own.
    own = [name for name in metrics if not name.startswith("process_")]
    return [
        *(_link(f"Runbook: {name}", f"operations/runbook.md#{name.lower()}") for name in panel.alerts),
        *(_link(f"Metric: {name}", f"reference/metrics.md#{name}") for name in own),
    ]


def _link(title: str, page: str) -> dashboard.DashboardLink:
    made = dashboard.DashboardLink(title).type(DashboardLinkType.LINK).url(f"${{docs}}/{page}")
    return made.target_blank(True)  # noqa: FBT003  # the builder has no names
