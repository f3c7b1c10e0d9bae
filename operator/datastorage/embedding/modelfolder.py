"""Reads the directory of a sentence model: its files, how its vectors are made, and what identifies it.

The files are those that sentence-transformers and its exporters write. What they say is checked here, so that
a model that would be used in a wrong way is refused at the start.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from datastorage.embedding.modelname import checked_model_name
from datastorage.embedding.weightfiles import weight_files
from datastorage.errors import ConfigurationError
from datastorage.files import read_file
from datastorage.variables import PREFIX

SETTING: Final = f"{PREFIX}EMBEDDING_MODEL_DIR"

# At the top, or where the models of sentence-transformers have it.
_MODELS: Final = (Path("model.onnx"), Path("onnx/model.onnx"))
_TOKENIZER: Final = "tokenizer.json"
_MAX_CONFIG_BYTES: Final = 1024 * 1024
# If no file names the limit: that of most models of this kind.
_DEFAULT_MAX_TOKENS: Final = 512
# A text has 2,000 characters at most, and hardly ever more tokens than characters.
_MOST_TOKENS: Final = 2048
# Enough to tell any two models apart, and short enough for a table.
_DIGEST_CHARACTERS: Final = 12


class Pooling(StrEnum):
    """How the vectors of a text's tokens become one."""

    MEAN = "mean"
    CLS = "cls"
    MAX = "max"
    LAST_TOKEN = "lasttoken"  # noqa: S105  # of a text


# The names in the form of the configuration that has one switch for each way.
_SWITCHES: Final = {
    "pooling_mode_mean_tokens": Pooling.MEAN,
    "pooling_mode_cls_token": Pooling.CLS,
    "pooling_mode_max_tokens": Pooling.MAX,
    "pooling_mode_lasttoken": Pooling.LAST_TOKEN,
}


@dataclass(frozen=True)
class ModelFolder:
    """A sentence model in a directory.

    ``max_tokens``: a longer text is cut. ``normalised``: pooled vectors are scaled to length one.
    ``pad_id`` is None if no file names the token that fills up shorter texts.
    """

    name: str
    model: Path
    tokenizer: Path
    pooling: Pooling
    normalised: bool
    lower_case: bool
    max_tokens: int
    pad_id: int | None

    def identity(self) -> str:
        """Return the name with a digest of everything that the vectors depend on. Reads all of the model.

        Vectors are stored under this name: for the same files, it must stay the same. Files that the model
        does not read don't count, such as a README, or another export beside it.

        Raises ConfigurationError if a file can't be read.
        """
        digest = hashlib.sha256()
        for path in (self.tokenizer, *self._weights()):
            try:
                with path.open("rb") as file:
                    digest.update(hashlib.file_digest(file, "sha256").digest())
            except OSError as error:
                raise _unreadable(path, error) from error
        made = (self.pooling.value, self.normalised, self.lower_case, self.max_tokens)
        digest.update(json.dumps(made).encode())
        return f"{self.name}@{digest.hexdigest()[:_DIGEST_CHARACTERS]}"

    def _weights(self) -> list[Path]:
        try:
            return list(weight_files(self.model))
        except OSError as error:
            raise _unreadable(Path(error.filename or self.model), error) from error


def read_folder(directory: str, name: str) -> ModelFolder:
    """Return what a directory says of the model in it; ``name`` stands for the directory's own name.

    Raises ConfigurationError if something is missing or of an unknown kind.
    """
    if not directory:
        raise ConfigurationError(
            f"{SETTING} is not set: mount a directory with tokenizer.json and model.onnx, and name it"
        )
    folder = Path(directory)
    if not folder.is_dir():
        raise ConfigurationError(f"{SETTING}: {directory} is no directory: mount the model there")
    model = next((folder / each for each in _MODELS if (folder / each).is_file()), None)
    tokenizer = folder / _TOKENIZER
    if model is None or not tokenizer.is_file():
        missing = "model.onnx (or onnx/model.onnx)" if model is None else _TOKENIZER
        raise ConfigurationError(
            f"{SETTING}: {directory} has no {missing}: put the model's files there, as an export to ONNX "
            "writes them"
        )
    config = _read(folder / "config.json")
    sentence, tokens = _read(folder / "sentence_bert_config.json"), _read(folder / "tokenizer_config.json")
    modules = _modules(folder)
    return ModelFolder(
        name=checked_model_name(name.strip() or folder.name),
        model=model,
        tokenizer=tokenizer,
        pooling=_pooling(folder / modules.get("Pooling", "1_Pooling")),
        normalised=not modules or "Normalize" in modules,
        lower_case=sentence.get("do_lower_case") is True,
        max_tokens=_max_tokens(
            (sentence, "max_seq_length"), (tokens, "model_max_length"), (config, "max_position_embeddings")
        ),
        pad_id=_whole(config.get("pad_token_id")),
    )


def _modules(folder: Path) -> Mapping[str, str]:
    """Return the directories of the steps that make a vector, by their kinds; empty if no file names them."""
    path = folder / "modules.json"
    listed = _load(path, [])
    try:
        modules = {str(each["type"]).rpartition(".")[2]: str(each["path"]) for each in listed}
    except (TypeError, KeyError) as error:
        raise _not_understood(path) from error
    unknown = sorted(modules.keys() - {"Transformer", "Pooling", "Normalize"})
    if unknown:
        raise ConfigurationError(
            f"{SETTING}: {path} names the step {unknown[0]}, which this program does not know: export the "
            "model with all of its steps, so that it returns sentence_embedding, and remove modules.json"
        )
    return modules


def _pooling(folder: Path) -> Pooling:
    path = folder / "config.json"
    config = _read(path)
    if not config:
        return Pooling.MEAN
    named = config.get("pooling_mode")
    modes = [str(named)] if named is not None else [key for key in config if _is_on(config, key)]
    found = [_SWITCHES.get(mode, mode) for mode in modes]
    if len(found) != 1 or found[0] not in set(Pooling):
        raise ConfigurationError(
            f"{SETTING}: {path} asks for the pooling {' and '.join(found) or 'none'}; this program knows one "
            f"of {', '.join(Pooling)}: take another model, or export it with its pooling"
        )
    return Pooling(found[0])


def _is_on(config: Mapping[str, Any], key: str) -> bool:
    return key.startswith("pooling_mode_") and config[key] is True


def _max_tokens(*places: tuple[Mapping[str, Any], str]) -> int:
    """Return the first limit that is given. A tokenizer may name an absurd one, which means none."""
    given = (_whole(config.get(key)) for config, key in places)
    limit = next((each for each in given if each is not None and 0 < each < 2**31), _DEFAULT_MAX_TOKENS)
    return min(limit, _MOST_TOKENS)


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _read(path: Path) -> Mapping[str, Any]:
    """Return a JSON object; an empty one if there is no such file."""
    found = _load(path, {})
    if not isinstance(found, dict):
        raise _not_understood(path)
    return found


def _load(path: Path, default: Any) -> Any:
    try:
        return json.loads(read_file(path, _MAX_CONFIG_BYTES))
    except (FileNotFoundError, NotADirectoryError):
        return default
    except OSError as error:
        raise _unreadable(path, error) from error
    except (ValueError, RecursionError) as error:
        raise _not_understood(path) from error


def _not_understood(path: Path) -> ConfigurationError:
    return ConfigurationError(f"{SETTING}: {path} is not what such a file is: put the model's own one there")


def _unreadable(path: Path, error: OSError) -> ConfigurationError:
    return ConfigurationError(
        f"{SETTING}: {path} can't be read ({error.strerror}): give the user of this process the right to"
    )
