"""Which provider the settings ask for."""

from datastorage.embedding.provider import Provider
from datastorage.errors import ConfigurationError
from datastorage.secrets import Origin
from datastorage.settings import PREFIX, EmbeddingSettings


def build_provider(settings: EmbeddingSettings, *, url: Origin, key: Origin) -> Provider | None:
    """Return the provider, or None for none. ``url`` and ``key`` are a service's, and may change.

    Raises ConfigurationError when it can't be as it is set up.
    """
    # Imported here: who uses one provider needs the memory of one.
    match settings.provider:
        case "none":
            return None
        case "wordllama":
            from datastorage.embedding.wordllama import MODEL, WordLlamaProvider  # noqa: PLC0415

            if settings.dimensions != MODEL.dimensions:
                raise ConfigurationError(
                    f"{PREFIX}EMBEDDING_DIMENSIONS: the model of wordllama has {MODEL.dimensions}, "
                    f"not {settings.dimensions}"
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
