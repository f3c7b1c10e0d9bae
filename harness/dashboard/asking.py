"""Panels about the questions to the archive, and about errors of all kinds."""

from typing import Final

from harness.dashboard.model import Limit, Panel, Query, Row, Unit, quantile, rate, share

_ASKED: Final = "datastorage_query_total"
_ANSWERED: Final = "datastorage_query_duration_seconds"
_BY_MEANING: Final = 'operation=~"search_vector|search_hybrid"'
_FAILED: Final = 'status="error"'
_VALID: Final = 'status!="invalid"'
_STORED_BARE: Final = rate('datastorage_dualwrite_failure_total{$own,reason!~"following|queued"}')
_STORED_WHOLE: Final = rate("datastorage_dualwrite_success_total{$own}")

ASKING: Final = Row(
    "Questions to the archive",
    (
        Panel(
            "Query rate",
            Unit.QUESTIONS_A_SECOND,
            "Questions to the archive, by operation: searches, lists, single records and overviews.",
            "What people and programs ask. There is no limit to compare it with: if it jumps, see who asks "
            "in the log.",
            (Query(f"sum by (operation) ({rate(f'{_ASKED}{{$own}}')})", "{{operation}}"),),
        ),
        Panel(
            "Query duration by operation",
            Unit.SECONDS,
            "How long an answer takes, by operation: 95 of 100 are quicker. Failed questions count, too.",
            "Milliseconds for a single record, tens of milliseconds for lists and searches.",
            (Query(quantile(0.95, _ANSWERED, by="operation"), "{{operation}}"),),
        ),
        Panel(
            "Semantic search",
            Unit.SECONDS,
            "How long a search by meaning takes, with or without words: 50, 95 and 99 of 100 are quicker.",
            "95 of 100 below 0.1 seconds. If it grows with the duration of embedding, the embedder is slow; "
            "otherwise PostgreSQL is, or the indexes of the vectors are missing.",
            tuple(
                Query(quantile(part, _ANSWERED, of=_BY_MEANING), name)
                for part, name in ((0.5, "p50"), (0.95, "p95"), (0.99, "p99"))
            ),
            limits=(Limit(0.1, "warning"),),
            alerts=("DataStorageSlowSemanticSearch",),
        ),
        Panel(
            "Query error rate",
            Unit.SHARE,
            "Share of the questions that got an error, by operation. Questions that are wrong themselves do "
            "not count.",
            "0. Errors of all operations at once mean that PostgreSQL is away; those of searches alone, "
            "that the embedder or the tables of the vectors are.",
            (
                Query(
                    share(f"{_ASKED}{{$own,{_FAILED}}}", f"{_ASKED}{{$own,{_VALID}}}", by="operation"),
                    "{{operation}}",
                ),
            ),
            limits=(Limit(0.05, "critical"),),
            alerts=("DataStorageHighQueryErrorRate", "DataStorageReadErrorBudgetBurn"),
        ),
    ),
)

ERRORS: Final = Row(
    "Errors",
    (
        Panel(
            "Error rate overview",
            Unit.SHARE,
            "Share of what failed: attempts to store a record, questions, requests that were answered with "
            "a 5xx status, and records that were stored without their vectors.",
            "0 everywhere. All but the last one rise together when PostgreSQL is away; the last one alone "
            "when the embedder or the tables of the vectors are.",
            (
                Query(
                    share('datastorage_write_total{$own,status="failure"}', "datastorage_write_total{$own}"),
                    "writes",
                ),
                Query(share(f"{_ASKED}{{$own,{_FAILED}}}", f"{_ASKED}{{$own,{_VALID}}}"), "questions"),
                Query(
                    share(
                        'http_server_requests_total{$own,http_response_status_code=~"5.."}',
                        "http_server_requests_total{$own}",
                    ),
                    "requests (5xx)",
                ),
                Query(
                    f"sum({_STORED_BARE})\n/ (sum({_STORED_BARE}) + sum({_STORED_WHOLE}))",
                    "records without vector",
                ),
            ),
            limits=(Limit(0.05, "critical"),),
            alerts=(
                "DataStorageHighWriteErrorRate",
                "DataStorageHighQueryErrorRate",
                "DataStorageVectorDBDegraded",
            ),
        ),
    ),
    width=24,
)
