"""The query parameters of a route: only known names, each once. A misspelt filter would find too much."""

from http import HTTPStatus

from fastapi import Request
from pydantic import BaseModel, ConfigDict

from datastorage.api.problems import Problem, ProblemError
from datastorage.resources.models.base import field_name
from datastorage.resources.validation.problems import Code, FieldProblem


class Strict(BaseModel):
    """Parameters with the names of the interfaces; others are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", alias_generator=field_name)


class NoParameters(Strict):
    """No parameters at all."""


async def given_once(request: Request) -> None:
    """Raise ProblemError for a parameter that is given more than once: which one counts is not clear."""
    names = [name for name, _ in request.query_params.multi_items()]
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated is not None:
        detail = "is given more than once: give it once"
        raise ProblemError(
            Problem(
                HTTPStatus.BAD_REQUEST,
                "invalid-parameter",
                f"{repeated[:50]}: {detail}",
                [FieldProblem(repeated[:50], detail, Code.BAD_FORMAT)],
            )
        )
