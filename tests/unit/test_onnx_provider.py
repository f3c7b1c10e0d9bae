"""The provider ``onnx``: the vectors of a real model, models that can't be used, and work beside the loop."""

import asyncio
import json
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, save_model
from onnx.external_data_helper import set_external_data
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from datastorage.embedding import build_provider
from datastorage.embedding.modelfolder import ModelFolder, Pooling, read_folder
from datastorage.embedding.onnx import Limits, OnnxProvider
from datastorage.embedding.provider import EmbedderBusyError, probe
from datastorage.embedding.sentencemodel import Run, SentenceModel, StoppedError
from datastorage.errors import ConfigurationError
from datastorage.records.vector import Matrix
from datastorage.secrets import Origin
from datastorage.settingsgroups import EmbeddingSettings
from harness import minilm
from harness.onnxmodel import Graph, minilm_folder

LIMITS: Final = Limits()
TEXTS: Final = [
    "patch deployment. Execution completed. Memory limit of checkout raised from 256Mi to 512Mi",
    "restart",
    "ünïcödé 🧨 \u2028 日本語",
    "the pod was killed because it was out of memory " * 40,  # longer than the model reads
    "0" * 2000,
    *(f"event {number} of the node" for number in range(20)),
]
MODULES: Final = [{"type": "a.Transformer", "path": ""}, {"type": "a.Pooling", "path": "1_Pooling"}]
WORDS: Final = {"[PAD]": 0, "[UNK]": 1, "pod": 2, "node": 3, "disk": 4, "restart": 5}
OF_TEXTS: Final[list[Any]] = ["texts", 2]
TABLE: Final = np.arange(12, dtype=np.float32).reshape(6, 2) ** 2
"""The vectors of the words."""


def settings(folder: Path, **more: Any) -> EmbeddingSettings:
    return EmbeddingSettings(**{"provider": "onnx", "model_dir": str(folder), **more})


@asynccontextmanager
async def opened(folder: Path, limits: Limits = LIMITS, **more: Any) -> AsyncIterator[OnnxProvider]:
    provider = OnnxProvider(settings(folder, **more), limits=limits)
    try:
        yield provider
    finally:
        await provider.close()


# The real model


async def test_the_vectors_are_those_of_sentence_transformers() -> None:
    """minilm.py agrees with that library within 3e-7."""
    async with opened(minilm_folder(), dimensions=minilm.DIMENSION) as provider:
        rows = await provider.embed(TEXTS)
        alone = await provider.embed(TEXTS[:1])
    assert rows.dtype == np.float32
    np.testing.assert_allclose(rows, minilm.shared().embed(TEXTS), atol=1e-4)
    np.testing.assert_allclose(alone[0], rows[0], atol=1e-5)
    assert provider.model.provider == "onnx"
    assert provider.model.name.startswith("all-MiniLM-L6-v2@")


def test_a_run_that_is_stopped_ends_at_once() -> None:
    model = SentenceModel(read_folder(str(minilm_folder()), ""), threads=1)
    run = Run()
    stopping = threading.Timer(0.2, run.stop)
    stopping.start()
    with pytest.raises(StoppedError):
        model.embed([[100] * 256] * 512, run)  # this would compute for half a minute
    stopping.join()


# Small models, each of which looks up the vectors of its words


def looked_up(graph: Graph) -> str:
    return graph.add("Gather", graph.weight(TABLE), "input_ids")


def of_tokens(graph: Graph) -> None:
    graph.add("Identity", looked_up(graph), output="last_hidden_state")


def total(graph: Graph, output: str) -> None:
    graph.add("ReduceSum", looked_up(graph), graph.weight(np.array([1])), output=output, keepdims=0)


def small(
    write: Callable[[Graph], object] = of_tokens,
    *,
    inputs: Sequence[str] = ("input_ids", "attention_mask"),
    outputs: dict[str, list[Any]] | None = None,
    shape: list[Any] | None = None,
) -> ModelProto:
    """Return a small model; ``write`` adds what leads to its outputs."""
    graph = Graph()
    write(graph)
    return graph.model(tuple(inputs), outputs or {"last_hidden_state": ["texts", "tokens", 2]}, shape)


@dataclass
class Folder:
    """The directory of a small model, with its tokenizer."""

    path: Path

    def model(self, made: ModelProto) -> "Folder":
        save_model(made, str(self.path / "model.onnx"))
        return self

    def elsewhere(self, location: str, file: Path, table: Any) -> None:
        """Have the words' vectors in a file, which the model names as its ``location``."""
        made = small()
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(table.tobytes())
        [weights] = made.graph.initializer
        set_external_data(weights, location)
        weights.ClearField("raw_data")
        (self.path / "model.onnx").write_bytes(made.SerializeToString())

    def write(self, name: str, content: Any) -> "Folder":
        (self.path / name).parent.mkdir(exist_ok=True)
        (self.path / name).write_text(json.dumps(content), encoding="utf-8")
        return self

    async def embed(self, *texts: str) -> Matrix:
        async with opened(self.path) as provider:
            return await provider.embed(texts)

    @property
    def identity(self) -> str:
        return read_folder(str(self.path), "").identity()

    def refusal(self, **more: Any) -> str:
        """Return why the model is refused at the start."""
        with pytest.raises(ConfigurationError) as caught:
            OnnxProvider(settings(self.path, **more))
        assert "\n" not in str(caught.value)
        return str(caught.value)


def test_onnxruntime_keeps_and_sends_nothing_about_its_use(tmp_path: Path) -> None:
    """It would write an identifier of the machine, and what is to be sent, into the folder for caches."""
    loading = "import datastorage.embedding.sentencemodel"
    places = {"XDG_CACHE_HOME": str(tmp_path), "HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", loading], env=os.environ | places, check=True, timeout=60)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    path = tmp_path / "tiny"
    path.mkdir()
    tokenizer = Tokenizer(WordLevel(WORDS, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.save(str(path / "tokenizer.json"))
    return Folder(path).model(small())


def unit(row: Sequence[float]) -> Any:
    return np.asarray(row) / np.linalg.norm(row)


async def test_without_other_files_vectors_are_the_scaled_means_of_the_tokens(folder: Folder) -> None:
    pod, longer = await folder.embed("pod", "pod node disk")
    np.testing.assert_allclose(pod, unit(TABLE[2]), atol=1e-6)
    np.testing.assert_allclose(longer, unit(TABLE[2:5].mean(axis=0)), atol=1e-6)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, TABLE[2]),
        ({"pooling_mode_max_tokens": True}, TABLE[4]),
        ({"pooling_mode_lasttoken": True}, TABLE[3]),
        ({"pooling_mode": "mean"}, TABLE[[2, 4, 3]].mean(axis=0)),
    ],
)
async def test_the_model_says_how_its_vectors_are_pooled(
    folder: Folder, config: dict[str, Any], expected: Any
) -> None:
    folder.write("1_Pooling/config.json", config)
    folder.write("modules.json", MODULES)
    row, _ = await folder.embed("pod disk node", "pod disk node pod pod")
    np.testing.assert_allclose(row, expected, atol=1e-5)


async def test_a_sentence_embedding_is_taken_as_it_is(folder: Folder) -> None:
    def pooled(graph: Graph) -> None:
        of_tokens(graph)
        total(graph, "sentence_embedding")

    shapes: dict[str, list[Any]] = {
        "last_hidden_state": ["texts", "tokens", 2],
        "sentence_embedding": OF_TEXTS,
    }
    folder.model(small(pooled, outputs=shapes))
    np.testing.assert_allclose(await folder.embed("pod"), TABLE[2:3])


async def test_a_text_is_cut_where_the_model_says(folder: Folder) -> None:
    folder.write("sentence_bert_config.json", {"max_seq_length": 1})
    folder.write("tokenizer_config.json", {"model_max_length": 10**30})
    np.testing.assert_allclose((await folder.embed("pod node"))[0], unit(TABLE[2]), atol=1e-6)


async def test_a_model_gets_the_inputs_that_it_has(folder: Folder) -> None:
    def with_types(graph: Graph) -> None:
        types = graph.add("Cast", "token_type_ids", to=TensorProto.FLOAT)
        spread = graph.add("Unsqueeze", types, graph.weight(np.array([2])))
        graph.add("Add", looked_up(graph), spread, output="last_hidden_state")

    folder.model(small(with_types, inputs=("input_ids", "attention_mask", "token_type_ids")))
    np.testing.assert_allclose((await folder.embed("pod"))[0], unit(TABLE[2]), atol=1e-6)


def test_the_identity_is_that_of_everything_that_the_vectors_depend_on(folder: Folder) -> None:
    seen = [folder.identity]
    assert seen == [folder.identity]
    assert seen[0].startswith("tiny@")
    folder.write("tokenizer.json", {"another": "one"})
    seen.append(folder.identity)
    folder.write("1_Pooling/config.json", {"pooling_mode_cls_token": True})
    seen.append(folder.identity)
    folder.write("sentence_bert_config.json", {"max_seq_length": 7})
    seen.append(folder.identity)
    folder.write("model.onnx_data", "the weights of a large model")
    seen.append(folder.identity)
    folder.model(small(negated))
    seen.append(folder.identity)
    assert len(set(seen)) == len(seen)
    folder.write("README.json", {})
    assert folder.identity == seen[-1]


@pytest.mark.parametrize("model", ["model.onnx", "onnx/model.onnx"])
@pytest.mark.parametrize(
    ("location", "file"),
    [
        ("weights.bin", "weights.bin"),
        ("./weight_0", "weight_0"),
        ("weights/layer0.bin", "weights/layer0.bin"),
        ("weights//./layer0.bin", "weights/layer0.bin"),
        ("model.onnx_data/0", "model.onnx_data/0"),
        ("model.onnx_data", "model.onnx_data"),
    ],
)
async def test_weights_in_another_file_count_by_any_name(
    folder: Folder, model: str, location: str, file: str
) -> None:
    made = (folder.path / model).parent
    folder.elsewhere(location, made / file, TABLE)
    (folder.path / "model.onnx").rename(folder.path / model)
    seen, before = folder.identity, await folder.embed("pod")
    (made / file).write_bytes(TABLE[::-1].tobytes())
    assert not np.allclose(await folder.embed("pod"), before)
    assert folder.identity != seen


def test_weights_behind_a_link_count(folder: Folder, tmp_path: Path) -> None:
    """The caches of Hugging Face consist of links, and old versions of onnxruntime follow them."""
    folder.elsewhere("weights.bin", tmp_path / "blob", TABLE)
    (folder.path / "weights.bin").symlink_to(tmp_path / "blob")
    seen = folder.identity
    (tmp_path / "blob").write_bytes(b"others")
    assert folder.identity != seen


def test_no_other_file_changes_the_identity(folder: Folder, tmp_path: Path) -> None:
    folder.elsewhere("weights.bin", folder.path / "weights.bin", TABLE)
    seen = folder.identity
    for name in ("README.md", ".gitattributes", "model_quantized.onnx", "model_fp16.onnx_data", "vocab.txt"):
        (folder.path / name).write_bytes(b"anything")
    for name in (".git/index", "onnx/model.onnx", "onnx/model.onnx_data", "another/weights"):
        folder.write(name, "anything")
    (tmp_path / "weights.bin").write_bytes(b"in no directory of the model")
    os.mkfifo(folder.path / "location")  # to read it would never end
    assert folder.identity == seen


def test_what_is_outside_of_the_directory_is_not_read(folder: Folder, tmp_path: Path) -> None:
    outside = tmp_path / "weights.bin"
    for location in ("../weights.bin", str(outside)):
        folder.elsewhere(location, outside, TABLE)
        seen = folder.identity
        outside.write_bytes(b"others")
        assert folder.identity == seen
        assert "can't be loaded" in folder.refusal()


def test_names_under_which_vectors_are_stored_do_not_change(tmp_path: Path) -> None:
    for name in ("tokenizer.json", "model.onnx", "README.md"):
        (tmp_path / name).write_text(name)
    model = ModelFolder(
        "m", tmp_path / "model.onnx", tmp_path / "tokenizer.json", Pooling.MEAN,
        normalised=True, lower_case=False, max_tokens=256, pad_id=0,
    )  # fmt: skip
    assert model.identity() == "m@b1dcc3d39432"
    for name in ("model.onnx_data", "model.onnx.data"):
        (tmp_path / name).write_text(name)
    assert model.identity() == "m@c6ec240b5b02"


def negated(graph: Graph) -> None:
    graph.add("Neg", looked_up(graph), output="last_hidden_state")


def nan(graph: Graph) -> None:
    graph.add("Log", graph.add("Neg", looked_up(graph)), output="last_hidden_state")


def wide(graph: Graph) -> None:
    table = graph.weight(np.ones((6, 2001), np.float32))
    graph.add("Gather", table, "input_ids", output="last_hidden_state")


def flat(graph: Graph) -> None:
    for name in ("pooler_output", "logits"):
        total(graph, name)


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (small(nan), "its vector of a harmless text is unusable (not finite)"),
        (small(wide, outputs={"last_hidden_state": ["texts", "tokens", 2001]}), "2001 dimensions, and 2000"),
        (small(flat, outputs={"pooler_output": OF_TEXTS, "logits": OF_TEXTS}), "none of its outputs"),
        (small(inputs=("input_ids", "pixel_values")), "it wants pixel_values"),
        (small(shape=[1, 4], outputs={"last_hidden_state": [1, 4, 2]}), "axes of any length"),
    ],
    ids=["nan", "wide", "flat", "inputs", "fixed"],
)
def test_a_model_that_cannot_be_used_is_refused_at_the_start(
    folder: Folder, model: ModelProto, why: str
) -> None:
    refusal = folder.model(model).refusal()
    assert refusal.startswith("DATASTORAGE_EMBEDDING_MODEL_DIR: the model tiny can't be used: ")
    assert why in refusal


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("model.onnx", "no model", "can't be loaded"),
        ("tokenizer.json", "no tokenizer", "is no tokenizer"),
        ("config.json", [], "is not what such a file is"),
        ("modules.json", [{"type": "a.Dense", "path": "2_Dense"}], "names the step Dense"),
        ("1_Pooling/config.json", {"pooling_mode": "weightedmean"}, "asks for the pooling weightedmean"),
        (
            "1_Pooling/config.json",
            {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True},
            "asks for the pooling cls and mean",
        ),
    ],
)
def test_a_file_that_is_wrong_is_named(folder: Folder, name: str, content: Any, why: str) -> None:
    refusal = folder.write(name, content).refusal()
    assert why in refusal
    assert name in refusal


@pytest.mark.parametrize(
    ("missing", "why"),
    [
        ("model.onnx", "has no model.onnx (or onnx/model.onnx)"),
        ("tokenizer.json", "has no tokenizer.json"),
        ("", "is no directory: mount the model there"),
    ],
)
def test_what_is_missing_is_named(folder: Folder, missing: str, why: str) -> None:
    if missing:
        (folder.path / missing).unlink()
    else:
        folder.path = folder.path / "elsewhere"
    assert why in folder.refusal()


def test_settings_that_do_not_fit_are_named(folder: Folder) -> None:
    assert "DATASTORAGE_EMBEDDING_DIMENSIONS: the model tiny has 2, not 384" in folder.refusal(dimensions=384)
    assert "DATASTORAGE_EMBEDDING_MODEL_DIR is not set" in folder.refusal(model_dir="")
    assert "DATASTORAGE_EMBEDDING_MODEL has characters that no" in folder.refusal(model="a\nb")


async def test_the_name_and_the_place_of_the_model_may_be_others(folder: Folder) -> None:
    (folder.path / "onnx").mkdir()
    (folder.path / "model.onnx").rename(folder.path / "onnx/model.onnx")
    async with opened(folder.path, model="mine") as provider:
        assert provider.model.name.startswith("mine@")
        assert provider.model.dimensions == 2


def test_without_the_package_the_start_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    for name in ("onnx", "sentencemodel"):
        monkeypatch.delitem(sys.modules, f"datastorage.embedding.{name}")
    origin = Origin("", "")
    with pytest.raises(ConfigurationError, match=r"onnxruntime.*EXTRA=onnx.*'\.\[onnx\]'"):
        build_provider(EmbeddingSettings(provider="onnx"), url=origin, key=origin)


# Beside the event loop


class Gate:
    """Holds up what computes vectors until it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open = threading.Event()
        self.begun = threading.Semaphore(0)
        embed = SentenceModel.embed

        def held(model: SentenceModel, texts: Any, run: Run) -> Matrix:
            self.begun.release()
            assert self.open.wait(30)
            return embed(model, texts, run)

        monkeypatch.setattr(SentenceModel, "embed", held)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    made = Gate(monkeypatch)
    yield made
    made.open.set()


async def test_the_loop_goes_on_while_a_batch_is_computed(folder: Folder, gate: Gate) -> None:
    async with opened(folder.path) as provider:
        call = asyncio.create_task(provider.embed(["pod", "node"]))
        await asyncio.to_thread(gate.begun.acquire)
        gate.open.set()  # by the loop, which the computation does not hold up
        assert len(await call) == 2


async def test_a_question_need_not_wait_for_a_batch_of_records(
    folder: Folder, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(folder.path) as provider:
        call = asyncio.create_task(provider.embed(["pod", "node"]))
        await asyncio.to_thread(gate.begun.acquire)
        monkeypatch.undo()
        assert len(await provider.embed(["disk"])) == 1
        assert not call.done()
        gate.open.set()
        await call


async def test_more_than_may_wait_is_refused_as_busy(folder: Folder, gate: Gate) -> None:
    async with opened(folder.path, Limits(workers=1, waiting=2)) as provider:
        calls = [asyncio.create_task(provider.embed([text])) for text in ("pod", "node")]
        await asyncio.to_thread(gate.begun.acquire)
        with pytest.raises(EmbedderBusyError, match="2 callers waiting"):
            await provider.embed(["disk"])
        gate.open.set()
        assert [len(rows) for rows in await asyncio.gather(*calls)] == [1, 1]
        assert len(await provider.embed(["disk"])) == 1


async def test_a_batch_that_takes_too_long_is_ended_and_no_text_is_at_fault(
    folder: Folder, gate: Gate
) -> None:
    async with opened(folder.path, timeout_seconds=0.05) as provider:
        with pytest.raises(EmbedderBusyError, match=r"no batch within 0\.05 s"):
            await provider.embed(["pod"])
        gate.open.set()
    async with opened(folder.path) as provider:
        await probe(provider)


async def test_a_stop_ends_what_is_computed(folder: Folder, gate: Gate) -> None:
    async with opened(folder.path) as provider:
        call = asyncio.create_task(provider.embed(["pod"]))
        await asyncio.to_thread(gate.begun.acquire)
    gate.open.set()
    with pytest.raises(EmbedderBusyError, match="was stopped"):
        await call


async def test_batches_are_bounded_and_come_back_in_order(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [" ".join(["pod", "node", "disk"] * (1 + number % 5)) for number in range(40)]
    whole = await folder.embed(*texts)
    sizes: list[tuple[int, int]] = []
    embed = SentenceModel.embed

    def counted(model: SentenceModel, tokens: Any, run: Run) -> Matrix:
        sizes.append((len(tokens), len(tokens) * max(map(len, tokens))))
        return embed(model, tokens, run)

    monkeypatch.setattr(SentenceModel, "embed", counted)
    async with opened(folder.path, Limits(batch_tokens=30), batch_size=4) as provider:
        np.testing.assert_allclose(await provider.embed(texts), whole, atol=1e-6)
        assert (await provider.embed([])).shape == (0, 2)
    assert sum(count for count, _ in sizes) == len(texts)
    assert max(count for count, _ in sizes) == 4
    assert max(tokens for _, tokens in sizes) <= 30
