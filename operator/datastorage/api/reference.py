"""The API reference for people, made from the OpenAPI document: as a Markdown page, and as an HTML page.

The HTML page is complete in itself, with neither scripts nor anything from another server.
"""

import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, Final

from datastorage.api.answerschemas import SCHEMAS_AT

_COLUMNS: Final = 120  # of the Markdown page


@dataclass(frozen=True, slots=True)
class Heading:
    """A heading; the page's own title has level 1."""

    level: int
    text: str


@dataclass(frozen=True, slots=True)
class Table:
    """A table with a head."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]


Block = Heading | Table | str
"""A block of the page; a text is a paragraph. Backticks mark code."""


def blocks(document: Mapping[str, Any]) -> Iterator[Block]:
    """Yield the blocks of the reference."""
    schemas = document["components"]["schemas"]
    yield from document["info"]["description"].split("\n\n")
    for tag in document["tags"]:
        yield Heading(2, tag["name"].capitalize())
        yield tag["description"]
        for path, methods in document["paths"].items():
            for method, described in methods.items():
                if tag["name"] in described["tags"]:
                    yield from _operation(method, path, described, schemas)
    yield Heading(2, "Headers")
    yield "Every request may have these headers."
    shared = document["components"]["parameters"].values()
    yield Table(("Header", "Meaning"), [(f"`{each['name']}`", each["description"]) for each in shared])
    yield "Every answer has these headers."
    headers = document["components"]["headers"].items()
    yield Table(("Header", "Meaning"), [(f"`{name}`", each["description"]) for name, each in headers])
    yield Heading(2, "Problems")
    yield "The codes of all problems. Programs may rely on them."
    yield Table(("Status", "Code", "Meaning"), sorted(set(_codes(document))))
    yield Heading(2, "Schemas")
    for name, schema in schemas.items():
        if "properties" in schema:
            yield Heading(3, name)
            yield from schema["description"].split("\n\n")
            yield Table(("Field", "Type", "Needed", "Meaning"), list(_fields(schema, schemas)))


def markdown(document: Mapping[str, Any]) -> str:
    """Return the reference as Markdown, without a title."""
    return "\n\n".join(_markdown(block) for block in blocks(document)) + "\n"


def html(document: Mapping[str, Any]) -> str:
    """Return the reference as an HTML page."""
    title = escape(document["info"]["title"])
    body = "\n".join(_html(block) for block in blocks(document))
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{STYLE}</style></head>\n<body><h1>{title} {escape(document['info']['version'])}</h1>\n"
        '<p><a href="openapi.json">The OpenAPI document</a></p>\n'
        f"{body}\n</body></html>\n"
    )


STYLE: Final = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem}"
    "table{border-collapse:collapse;margin:1rem 0}th,td{border:1px solid #ccc;padding:.3rem .6rem;"
    "text-align:left;vertical-align:top}code{background:#f2f2f2;padding:.1rem .2rem}"
)


def _operation(
    method: str, path: str, described: Mapping[str, Any], schemas: Mapping[str, Any]
) -> Iterator[Block]:
    yield Heading(3, described["summary"])
    yield f"`{method.upper()} {path}`"
    yield from described["description"].split("\n\n")
    parameters = [
        (
            f"`{each['name']}`", each["in"], _type(each["schema"], schemas), _needed(each["required"]),
            _cell(each.get("description") or schemas[_name(each["schema"])]["description"]),
        )
        for each in described.get("parameters", ())
        if "$ref" not in each  # otherwise one of every request
    ]  # fmt: skip
    if parameters:
        yield Table(("Parameter", "In", "Type", "Needed", "Meaning"), parameters)
    if "requestBody" in described:
        yield from _body(described["requestBody"], schemas)
    rows = []
    for status, answer in described["responses"].items():
        contents = answer.get("content", {})
        forms = [f"`{media}`: {_type(content['schema'], schemas)}" for media, content in contents.items()]
        codes = [f"`{code}`" for content in contents.values() for code in content.get("examples", ())]
        headers = [f"`{name}`" for name, each in answer.get("headers", {}).items() if "$ref" not in each]
        meaning = f"{answer['description']}{': ' if codes else ''}{', '.join(codes)}"
        rows.append((status, meaning, "; ".join(forms), ", ".join(headers)))
    yield Table(("Status", "Meaning", "Body", "Headers"), rows)


def _body(body: Mapping[str, Any], schemas: Mapping[str, Any]) -> Iterator[Block]:
    if "description" in body:
        yield f"Body: {body['description']}"
    for media, content in body["content"].items():
        schema = content["schema"]
        if "$ref" in schema:
            yield f"Body (`{media}`): {_name(schema)}."
        else:
            yield f"`{media}`: {schema.get('description') or _type(schema, schemas)}"


def _codes(document: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    operations = [each for methods in document["paths"].values() for each in methods.values()]
    answers = [answer for described in operations for answer in described["responses"].values()]
    for answer in [*answers, *document["components"]["responses"].values()]:
        for content in answer.get("content", {}).values():
            for code, example in content.get("examples", {}).items():
                yield str(example["value"]["status"]), f"`{code}`", _cell(example["summary"])


def _fields(
    schema: Mapping[str, Any], schemas: Mapping[str, Any], prefix: str = ""
) -> Iterator[tuple[str, str, str, str]]:
    """Yield the rows of a schema's fields; those of an inner object have its name before theirs."""
    needed = schema.get("required", ())
    for name, field in schema["properties"].items():
        text = _cell(field.get("description", ""))
        yield f"`{prefix}{name}`", _type(field, schemas), _needed(name in needed), text
        if "properties" in field:
            yield from _fields(field, schemas, f"{prefix}{name}.")


def _type(schema: Mapping[str, Any], schemas: Mapping[str, Any]) -> str:
    """Return the type of a value in words, with its limits."""
    if "$ref" in schema:
        name = _name(schema)
        return _type(schemas[name], schemas) if "enum" in schemas[name] else name
    if "const" in schema:
        return f"`{schema['const']}`"
    if "enum" in schema:
        return ", ".join(f"`{each}`" for each in schema["enum"] if each is not None)
    options = schema.get("anyOf") or schema.get("oneOf")
    if options:
        return " or ".join(_type(each, schemas) for each in options)
    words = schema.get("type", "any JSON value")
    if isinstance(words, list):  # with null, which stands for a field that is left out
        [words] = [each for each in words if each != "null"]
    if words == "array":
        return f"array of {_type(schema['items'], schemas)}{_limits(schema, 'minItems', 'maxItems')}"
    if "format" in schema:
        words = f"{words} ({schema['format']})"
    limits = _limits(schema, "minimum", "maximum")
    return f"{words}{limits}{_limits(schema, 'minLength', 'maxLength', ' characters')}"


def _limits(schema: Mapping[str, Any], least: str, most: str, unit: str = "") -> str:
    if most not in schema:
        return f", at least {schema[least]:,}{unit}" if least in schema else ""
    maximum = f"{int(schema[most]):,}{unit}"
    return f", {int(schema[least]):,} to {maximum}" if least in schema else f", at most {maximum}"


def _name(schema: Mapping[str, Any]) -> str:
    return str(schema["$ref"]).removeprefix(SCHEMAS_AT)


def _needed(required: object) -> str:
    return "yes" if required else "no"


def _cell(text: str) -> str:
    return " ".join(text.split())


def _markdown(block: Block) -> str:
    match block:
        case Heading(level, text):
            return f"{'#' * level} {text}"
        case Table(head, rows):
            lines = [" | ".join(each) for each in (head, ["---"] * len(head), *rows)]
            return "\n".join(f"| {line} |" for line in lines)
        case str():
            return textwrap.fill(block, _COLUMNS, break_long_words=False, break_on_hyphens=False)


def _html(block: Block) -> str:
    match block:
        case Heading(level, text):
            return f'<h{level} id="{text.lower().replace(" ", "-")}">{_inline(text)}</h{level}>'
        case Table(head, rows):
            return f"<table>{_row('th', head)}{''.join(_row('td', row) for row in rows)}</table>"
        case str():
            return f"<p>{_inline(block)}</p>"


def _row(tag: str, cells: Sequence[str]) -> str:
    return f"<tr>{''.join(f'<{tag}>{_inline(cell)}</{tag}>' for cell in cells)}</tr>"


def _inline(text: str) -> str:
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))
