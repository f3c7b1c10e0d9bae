"""Builds the provider and the cache that the settings ask for.

Their modules are imported only when needed, because each takes memory and time.
"""

from datastorage.embedding.cache import VectorCache
from datastorage.embedding.provider import Provider
from datastorage.errors import ConfigurationError
from datastorage.records.vector import EmbeddingModel
from datastorage.secrets import Origin
from datastorage.settingsgroups import EmbeddingSettings
from datastorage.variables import PREFIX


def build_provider(settings: EmbeddingSettings, *, url: Origin, key: Origin) -> Provider | None:
    """Return the provider, or None if the setting is "none".

    ``url`` and ``key`` of a service may change later. The provider "onnx" loads its model here, which takes
    some seconds. Raises ConfigurationError for settings that contradict each other, or a model that can't be
    used.
    """
    match settings.provider:
        case "none":
            return None
        case "wordllama":
            from datastorage.embedding.wordllama import MODEL, WordLlamaProvider  # noqa: PLC0415

            if settings.dimensions != MODEL.dimensions:
                raise ConfigurationError(
                    f"{PREFIX}EMBEDDING_DIMENSIONS: the model of wordllama has {MODEL.dimensions}, "
                    f"not {settings.dimensions}; leave it out, or set {PREFIX}EMBEDDING_PROVIDER to openai"
                )
            if settings.model not in {"", MODEL.name}:
                raise ConfigurationError(
                    f"{PREFIX}EMBEDDING_MODEL: the only model of wordllama is {MODEL.name}; leave it empty, "
                    f"or set {PREFIX}EMBEDDING_PROVIDER to openai"
                )
            return WordLlamaProvider()
        case "openai":
            from datastorage.embedding.openai import OpenAIProvider  # noqa: PLC0415

            return OpenAIProvider(settings, url=url, key=key)
        case "onnx":
            try:
                from datastorage.embedding.onnx import OnnxProvider  # noqa: PLC0415
            except ModuleNotFoundError as error:
                raise ConfigurationError(
                    f"{PREFIX}EMBEDDING_PROVIDER: onnx needs the package {error.name}, which is not "
                    "installed: use an image that is built with it (make image EXTRA=onnx), or run "
                    "pip install '.[onnx]' in a checkout"
                ) from error
            return OnnxProvider(settings)


def build_cache(model: EmbeddingModel, redis_url: Origin | None, *, ttl_seconds: int) -> VectorCache:
    """Return the cache of a model's vectors; without a URL it is in memory only.

    Raises ConfigurationError when the URL is malformed.
    """
    if redis_url is None:
        return VectorCache(model)
    from datastorage.embedding.rediscache import RedisStore  # noqa: PLC0415

    return VectorCache(model, RedisStore(redis_url, ttl_seconds))
