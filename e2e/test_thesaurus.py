"""A file with synonyms reaches the answers of the REST API; a wrong file ends the start."""

import asyncio
from pathlib import Path
from typing import Any

from e2e.workbench import Workbench
from harness.apiclient import ApiClient
from harness.manifests import audit_record
from harness.polling import until


async def test_a_group_of_the_file_finds_a_record(workbench: Workbench, tmp_path: Path) -> None:
    file = tmp_path / "thesaurus.toml"
    file.write_text('[groups]\nbutton = ["green button", "merry-go-round"]\n')
    operator = await asyncio.to_thread(
        workbench.start_operator,
        THESAURUS_FILE=file, API_AUTHENTICATION="none", LISTEN_ADDRESS="127.0.0.1",
    )  # fmt: skip
    body = audit_record("spinning", message="stopped the merry-go-round")
    body["metadata"]["namespace"] = workbench.namespace
    api = ApiClient(operator.api_url)

    def ask() -> list[dict[str, Any]]:
        stored = api.post("/store/remediation", body)
        assert stored.status == 201, stored.content
        answer = api.get("/query/semantic", q="who pressed the green button?", mode="text")
        assert answer.status == 200, answer.content
        found: list[dict[str, Any]] = answer.json["items"]
        return found

    [hit] = await asyncio.to_thread(ask)
    assert (hit["name"], hit["foundBy"]) == ("spinning", ["words"])


async def test_a_start_with_a_wrong_file_says_what_to_do(workbench: Workbench, tmp_path: Path) -> None:
    file = tmp_path / "thesaurus.toml"
    file.write_text('[groups]\n# half of a group\nbutton = ["green button"]\n')
    operator = workbench.start_operator(wait=False, THESAURUS_FILE=file)

    async def ended() -> bool:
        return operator.exit_code is not None

    await until(ended, what="the operator has ended")
    assert operator.exit_code == 2
    [line] = [line for line in operator.log().splitlines() if line.startswith("datastorage: ")]
    assert line == (
        f"datastorage: DATASTORAGE_THESAURUS_FILE: {file}, line 3: group 'button': it has one member: "
        "add a synonym, or remove the group"
    )
