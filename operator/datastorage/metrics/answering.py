"""Metrics of the API: requests, their senders, the questions to the archive, exports and TLS."""

from typing import Final

from datastorage.metrics.clearing import Completion
from datastorage.metrics.declaring import About, Chapter, Word, by, known_later, words

_QUERY_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_HTTP_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
_SIZE_BUCKETS: Final = (256, 1024, 4096, 16_384, 65_536, 262_144, 1_048_576, 4_194_304, 16_777_216)

OTHER: Final = "_OTHER"
"""The value of a label that stands for everything that the API does not know, as OpenTelemetry names it."""


class Method(Word):
    """The methods of the API."""

    GET = "GET", "reads"
    HEAD = "HEAD", "reads the headers of a probe"
    POST = "POST", "stores records, or asks with the question in the body"
    OTHER = OTHER, "any other method: the API has none"


class Operation(Word):
    """The questions to the archive."""

    SEARCH_HYBRID = "search_hybrid", "a search by meaning and by words"
    SEARCH_VECTOR = "search_vector", "a search by meaning"
    SEARCH_TEXT = "search_text", "a search by words"
    LIST = "list", "a page of records"
    GET = "get", "a record, or all its generations"
    TIMELINE = "timeline", "the records of an incident"
    HISTORY = "history", "what was done to an object"
    SUMMARY = "summary", "records in groups"


class QueryStatus(Word):
    """What came of a question."""

    SUCCESS = "success", "an answer, which may be that there is no such record"
    INVALID = "invalid", "the question can't be answered as it was put"
    ERROR = "error", "the archive could not be asked, or this program has a fault"


class ExportOutcome(Word):
    """How an export ended."""

    COMPLETE = "complete", "with its last line"
    BROKEN_OFF = "broken_off", "something was away, or a right was taken away"
    ABANDONED = "abandoned", "the client has gone, or was too slow"


class Limit(Word):
    """The limits of the API."""

    RATE = "rate", "requests a second of one identity (429)"
    REQUESTS_OF_ONE_IDENTITY = "requests_of_one_identity", "requests of one identity under way (429)"
    REQUESTS = "requests", "requests under way"
    REQUEST_BYTES = "request_bytes", "bytes of all requests in memory"
    ANSWER_BYTES = "answer_bytes", "bytes of all answers that clients have not read yet"
    ANSWERS = "answers", "answers that are made at once"
    EXPORTS = "exports", "exports under way"
    CONNECTIONS = "connections", "connections to the port"
    HANDSHAKES = "handshakes", "TLS handshakes under way"


class Review(Word):
    """The questions about a caller."""

    TOKEN = "token", "who it is"  # no password
    ACCESS = "access", "what it may do"


class ReviewOutcome(Word):
    """What came of a question about a caller."""

    HIT = "hit", "the answer was remembered, or asked for already"
    MISS = "miss", "the API server was asked"
    ERROR = "error", "it was asked and gave no answer"
    BUSY = "busy", "too many reviews were under way"


class SkipReason(Word):
    """Why the standby did not answer a question."""

    AWAY = "away", "it is away"
    REFUSED = "refused", "it cancelled the question, because it has to apply changes"
    NOT_FOUND = "not_found", "it does not have the record, or not yet"


class Handshake(Word):
    """How a TLS handshake ended."""

    SUCCESS = "success", "the connection is there"
    FAILED = "failed", "client and server did not agree, or the client has gone"
    TIMEOUT = "timeout", "the client took too long"
    DROPPED = "dropped", "too many were under way"
    PLAIN_HTTP = "plain_http", "the client spoke no TLS"


class CertifiedPort(Word):
    """The ports with a certificate."""

    API = "api", "the port of the API"


REQUESTS: Final = Chapter("Requests to the API")
QUESTIONS: Final = Chapter("Questions to the archive")

_ROUTES: Final = f"the templates of the paths, as in the API reference; `{OTHER}` for any other path"
_METHOD: Final = words("http_request_method", Method)
_ROUTE: Final = known_later("http_route", _ROUTES)
_AT_START: Final = "At the start, for each method and route."

HTTP_TOTAL = REQUESTS.counters(
    "http_server_requests_total",
    by(
        _METHOD,
        _ROUTE,
        known_later(
            "http_response_status_code",
            "the statuses that the API reference gives for the route, 500, 503, and "
            f"`{OTHER}` for any other status",
        ),
    ),
    About(
        "Requests to the API port that were answered, by method, template of the path and status",
        "Mostly 2xx. 5xx mean that something is away, and 401 and 403 that a client lacks a token or a "
        f"right. A request that no route serves counts with the route `{OTHER}`.",
        'sum by (http_route) (rate(http_server_requests_total{http_response_status_code=~"5.."}[5m]))',
        appears="At the start, for each method and route with its statuses.",
    ),
)
HTTP_DURATION = REQUESTS.histograms(
    "http_server_request_duration_seconds",
    by(_METHOD, _ROUTE),
    _HTTP_BUCKETS,
    About(
        "Duration of requests to the API port until the last byte of the answer, by method and template of "
        "the path",
        "Some hundredths of a second. An export takes as long as its client reads.",
        "histogram_quantile(0.95, sum by (le, http_route)"
        ' (rate(http_server_request_duration_seconds_bucket{http_route!="/api/v1/export"}[5m])))',
        appears=_AT_START,
    ),
)
HTTP_ACTIVE = REQUESTS.gauges(
    "http_server_active_requests",
    by(_METHOD),
    About(
        "Requests to the API port that are under way, by method",
        "A few. At 400, further ones get 503.",
        "sum(http_server_active_requests)",
    ),
)
HTTP_BODY_SIZE = REQUESTS.histograms(
    "http_server_request_body_size_bytes",
    by(_METHOD, _ROUTE),
    _SIZE_BUCKETS,
    About(
        "Announced sizes of the bodies of requests, by method and template of the path",
        "Some kilobytes for a record. The limit of a body is 8 MiB.",
        "sum by (http_route) (rate(http_server_request_body_size_bytes_sum[5m]))",
        appears="At the start, for each method and route, except those that have no body.",
    ),
)
HTTP_ANSWER_SIZE = REQUESTS.histograms(
    "http_server_response_body_size_bytes",
    by(_METHOD, _ROUTE),
    _SIZE_BUCKETS,
    About(
        "Sizes of the bodies of answers, by method and template of the path",
        "Kilobytes for a receipt or a page of outlines, megabytes for pages with contents.",
        "sum by (http_route) (rate(http_server_response_body_size_bytes_sum[5m]))",
        appears=_AT_START,
    ),
)
LIMITS_HIT = REQUESTS.counters(
    "datastorage_limits_hit_total",
    by(words("limit", Limit)),
    About(
        "Times that a client was refused or cut off because of a limit of the API, by limit",
        "0. `rate` and `requests_of_one_identity` are about one client, the others about all.",
        "sum by (limit) (increase(datastorage_limits_hit_total[5m])) > 0",
    ),
)
CALLER_REVIEWS = REQUESTS.counters(
    "datastorage_caller_reviews_total",
    by(words("review", Review), words("outcome", ReviewOutcome)),
    About(
        "Questions about callers of the API, by review and outcome",
        "Mostly `hit`: an answer is remembered for 10 seconds. `error` means that the API server is away, "
        "and that requests get 503.",
        'sum(rate(datastorage_caller_reviews_total{outcome="error"}[5m])) > 0',
    ),
)
CALLER_REVIEW_DURATION = REQUESTS.histograms(
    "datastorage_caller_review_duration_seconds",
    by(words("review", Review)),
    _QUERY_BUCKETS,
    About(
        "Duration of the questions about callers that the API server was asked, by review",
        "Some milliseconds. It is a part of each request of a caller who was not there in the last 10 "
        "seconds.",
        "histogram_quantile(0.95,"
        " sum by (le, review) (rate(datastorage_caller_review_duration_seconds_bucket[5m])))",
    ),
)
HANDSHAKES = REQUESTS.counters(
    "datastorage_tls_handshakes_total",
    by(words("outcome", Handshake)),
    About(
        "Handshakes on the API port with TLS, by outcome",
        "Mostly `success`, and all 0 without TLS. `plain_http` is a client with `http://` in its address.",
        'sum by (outcome) (rate(datastorage_tls_handshakes_total{outcome!="success"}[5m])) > 0',
    ),
)
CERTIFICATE_END = REQUESTS.gauges(
    "datastorage_tls_certificate_expiration_timestamp_seconds",
    by(words("port", CertifiedPort)),
    About(
        "When the certificate in use expires, in seconds since 1970, by port",
        "More than two weeks ahead.",
        "datastorage_tls_certificate_expiration_timestamp_seconds - time() < 14 * 86400",
        appears="At the start, with TLS alone.",
    ),
)
CERTIFICATE_LOADS = REQUESTS.counters(
    "datastorage_tls_certificate_loads_total",
    by(words("outcome", Completion)),
    About(
        "Times that a certificate was read, at the start and after each change, by outcome",
        "`success` grows with each renewal. After `failed`, the certificate before stays in use.",
        'increase(datastorage_tls_certificate_loads_total{outcome="failed"}[1h]) > 0',
    ),
)

QUERY_TOTAL = QUESTIONS.counters(
    "datastorage_query_total",
    by(words("operation", Operation), words("status", QueryStatus)),
    About(
        "Queries of the archive, by operation and status",
        "Mostly `success`. `invalid` is about clients, `error` about PostgreSQL, the vectors or the "
        "embedder.",
        'sum(rate(datastorage_query_total{status="error"}[5m])) / sum(rate(datastorage_query_total[5m]))',
    ),
)
QUERY_DURATION = QUESTIONS.histograms(
    "datastorage_query_duration_seconds",
    by(words("operation", Operation)),
    _QUERY_BUCKETS,
    About(
        "Duration of queries of the archive, by operation",
        "Searches take below 0.1 seconds at the 95th percentile. Failed queries count as well.",
        "histogram_quantile(0.95, sum by (le)"
        ' (rate(datastorage_query_duration_seconds_bucket{operation=~"search_vector|search_hybrid"}[5m])))',
    ),
)
REPLICA_LAG = QUESTIONS.gauge(
    "datastorage_replica_lag_seconds",
    About(
        "Seconds, at most, by which the standby that answers questions lags; 0 without a standby",
        "Below a second. Answers are older by as much.",
        "max(datastorage_replica_lag_seconds) > 60",
    ),
)
STANDBY_SKIPPED = QUESTIONS.counters(
    "datastorage_standby_skipped_total",
    by(words("reason", SkipReason)),
    About(
        "Questions that went to the primary in place of the standby, by reason",
        "`not_found` grows with clients that read what they have just stored. `away` and `refused` are 0.",
        "sum by (reason) (rate(datastorage_standby_skipped_total[5m]))",
    ),
)
EXPORT_TOTAL = QUESTIONS.counters(
    "datastorage_export_total",
    by(words("outcome", ExportOutcome)),
    About(
        "Exports by the API that have ended, by outcome",
        "`complete`. The log has the reason of each that was broken off.",
        'increase(datastorage_export_total{outcome="broken_off"}[1h]) > 0',
    ),
)
EXPORT_RECORDS = QUESTIONS.counter(
    "datastorage_export_records_total",
    About(
        "Records in exports",
        "It grows while an export is under way.",
        "sum(rate(datastorage_export_records_total[5m]))",
    ),
)
EXPORT_BYTES = QUESTIONS.counter(
    "datastorage_export_bytes_total",
    About(
        "Bytes of the lines of exports, uncompressed",
        "It grows while an export is under way.",
        "sum(rate(datastorage_export_bytes_total[5m]))",
    ),
)
