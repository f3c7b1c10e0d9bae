"""Runs a sentence model with onnxruntime, on the calling thread: from texts to vectors.

Only this module loads onnxruntime, which is not installed by default.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

# When it is loaded, onnxruntime makes an identifier of the machine and begins to send its maker what is done
# with it. Its function that ends this can only be called afterwards.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from tokenizers import Tokenizer

from datastorage.embedding.modelfolder import SETTING, ModelFolder, Pooling
from datastorage.embedding.provider import fault_of
from datastorage.errors import ConfigurationError
from datastorage.records.vector import Matrix
from datastorage.settingsgroups import MAX_DIMENSIONS

TokenIds = Sequence[int]
_Hidden = NDArray[np.float32]
"""The vectors of the tokens: by text, token and dimension."""

# Of different lengths: a model that was exported for one length, or for one text at a time, fails with them.
_TRIAL: Final = ("restart", "the pod was restarted because its container was out of memory")
_IDS: Final = "input_ids"
_MASK: Final = "attention_mask"
_TYPES: Final = "token_type_ids"
_POSITIONS: Final = "position_ids"
_NUMBERS: Final = {"tensor(int64)": np.int64, "tensor(int32)": np.int32}
_SENTENCE: Final = "sentence_embedding"
_PAD_TOKENS: Final = ("[PAD]", "<pad>")


class StoppedError(Exception):
    """A run was stopped from outside before its end."""


class Run:
    """One use of the model, which another thread may stop."""

    def __init__(self) -> None:
        self.options = onnxruntime.RunOptions()
        self.is_stopped = False

    def stop(self) -> None:
        """Let the run end as soon as possible, or not begin."""
        self.is_stopped = True
        self.options.terminate = True


@dataclass(frozen=True)
class _Output:
    """An output of the model, and whether it is one vector for each text already."""

    name: str
    is_pooled: bool


class SentenceModel:
    """A loaded model. Safe to use from several threads."""

    def __init__(self, folder: ModelFolder, *, threads: int) -> None:
        """Load the model and try it, which takes about a second. ``threads`` compute one batch together.

        Raises ConfigurationError if it can't be used.
        """
        self._folder = folder
        self._tokenizer = self._load_tokenizer()
        self._pad_id = self._find_pad_id()
        self._tokenizer.no_padding()  # each batch is padded to its own length
        self._tokenizer.enable_truncation(folder.max_tokens)
        self._session = self._load_session(threads)
        self._inputs = {each.name: self._number_of(each) for each in self._session.get_inputs()}
        self._output, self.dimensions = self._try()

    def tokenize(self, texts: Sequence[str]) -> list[TokenIds]:
        """Return the texts as the model reads them, with its marks for begin and end."""
        given = [text.lower() for text in texts] if self._folder.lower_case else list(texts)
        return [encoding.ids for encoding in self._tokenizer.encode_batch_fast(given)]

    def embed(self, texts: Sequence[TokenIds], run: Run) -> Matrix:
        """Return one row for each tokenized text. Raises StoppedError after ``run`` was stopped."""
        if run.is_stopped:
            raise StoppedError
        feed, mask = self._feed(texts)
        try:
            [found] = self._session.run([self._output.name], feed, run.options)
        except Exception as error:  # onnxruntime raises no narrower type for it
            if run.is_stopped:
                raise StoppedError from error
            raise
        rows = np.asarray(found, np.float32)
        return rows if self._output.is_pooled else self._pooled(rows, mask)

    def _load_tokenizer(self) -> Tokenizer:
        try:
            return Tokenizer.from_file(str(self._folder.tokenizer))
        except Exception as error:  # the library raises no narrower type
            raise self._refused(f"{self._folder.tokenizer} is no tokenizer ({error})") from error

    def _find_pad_id(self) -> int:
        if self._tokenizer.padding is not None:
            return int(self._tokenizer.padding["pad_id"])
        if self._folder.pad_id is not None:
            return self._folder.pad_id
        known = (self._tokenizer.token_to_id(token) for token in _PAD_TOKENS)
        return next((found for found in known if found is not None), 0)

    def _load_session(self, threads: int) -> Any:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # Idle threads would otherwise wait for work in a loop, and take a core from everything else.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        try:
            return onnxruntime.InferenceSession(
                str(self._folder.model), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime raises no narrower type
            raise self._refused(f"{self._folder.model} can't be loaded ({_first_line(error)})") from error

    def _number_of(self, given: Any) -> Any:
        if given.name not in {_IDS, _MASK, _TYPES, _POSITIONS} or given.type not in _NUMBERS:
            raise self._refused(f"it wants {given.name} as {given.type}, which this program can't give")
        return _NUMBERS[given.type]

    def _try(self) -> tuple[_Output, int]:
        """Return the output to use, and the dimensions of its vectors, after a trial with all outputs."""
        texts = self.tokenize(_TRIAL)
        feed, mask = self._feed(texts)
        names = [each.name for each in self._session.get_outputs()]
        try:
            outputs = dict(zip(names, self._session.run(None, feed), strict=True))
        except Exception as error:
            raise self._refused(
                f"it fails with two texts of different lengths ({_first_line(error)}): export it with "
                "axes of any length"
            ) from error
        output = self._chosen({name: np.ndim(found) for name, found in outputs.items()})
        rows = np.asarray(outputs[output.name], np.float32)
        expected = (len(texts),) if output.is_pooled else mask.shape
        if rows.shape[:-1] != expected:
            raise self._refused(
                f"its output {output.name} has the shape {rows.shape} for {mask.shape} tokens"
            )
        dimensions = int(rows.shape[-1])
        if dimensions > MAX_DIMENSIONS:
            raise self._refused(
                f"its vectors have {dimensions} dimensions, and {MAX_DIMENSIONS} is the most that can be "
                "searched"
            )
        with np.errstate(over="ignore", invalid="ignore"):
            vectors = rows if output.is_pooled else self._pooled(rows, mask)
        fault = next(filter(None, map(fault_of, vectors)), None)
        if fault is not None:
            raise self._refused(f"its vector of a harmless text is unusable ({fault})")
        return output, dimensions

    def _chosen(self, axes: dict[str, int]) -> _Output:
        """Return the output to use, by the outputs' numbers of axes.

        An output of one vector for each text counts only by its usual name, or if it is the only output: BERT
        has one that was made for something else (``pooler_output``).
        """
        if axes.get(_SENTENCE) == 2:
            return _Output(_SENTENCE, is_pooled=True)
        of_tokens = next((name for name, count in axes.items() if count == 3), None)
        if of_tokens is not None:
            return _Output(of_tokens, is_pooled=False)
        if list(axes.values()) == [2]:
            return _Output(next(iter(axes)), is_pooled=True)
        raise self._refused(
            f"none of its outputs ({', '.join(axes)}) has a vector for each text, or for each token"
        )

    def _feed(self, texts: Sequence[TokenIds]) -> tuple[dict[str, Any], NDArray[np.bool_]]:
        lengths = np.array([len(text) for text in texts])
        mask = np.arange(max(1, lengths.max()))[None, :] < lengths[:, None]
        ids = np.full(mask.shape, self._pad_id, np.int64)
        ids[mask] = np.concatenate([np.asarray(text, np.int64) for text in texts])
        known: dict[str, Callable[[], NDArray[Any]]] = {
            _IDS: lambda: ids,
            _MASK: lambda: mask,
            _TYPES: lambda: np.zeros(mask.shape, np.int64),
            _POSITIONS: lambda: np.broadcast_to(np.arange(mask.shape[1]), mask.shape),
        }
        return {
            name: np.ascontiguousarray(known[name](), number) for name, number in self._inputs.items()
        }, mask

    def _pooled(self, hidden: _Hidden, mask: NDArray[np.bool_]) -> Matrix:
        kept = mask[:, :, None]
        rows: Matrix
        match self._folder.pooling:
            case Pooling.MEAN:
                counts = np.maximum(mask.sum(axis=1, keepdims=True), 1)
                rows = (hidden * kept).sum(axis=1) / counts.astype(np.float32)
            case Pooling.CLS:
                rows = hidden[:, 0]
            case Pooling.MAX:
                rows = np.where(kept, hidden, -np.inf).max(axis=1)
            case Pooling.LAST_TOKEN:
                rows = hidden[np.arange(len(mask)), np.maximum(mask.sum(axis=1), 1) - 1]
        if not self._folder.normalised:
            return rows
        norms = np.linalg.norm(rows, axis=1, keepdims=True)
        scaled: Matrix = np.divide(rows, norms, out=np.zeros_like(rows), where=norms != 0)
        return scaled

    def _refused(self, why: str) -> ConfigurationError:
        return ConfigurationError(f"{SETTING}: the model {self._folder.name} can't be used: {why}")


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
