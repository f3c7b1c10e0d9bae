"""From a record to its vector: the text that carries its meaning, the models, the cache before them.

What belongs here: everything that knows how texts become vectors. What does not: where the vectors are kept
(storage), and which records they belong to (pipeline, vectors).
"""

from datastorage.embedding.cache import VectorCache
from datastorage.embedding.embedder import Embedder
from datastorage.embedding.factory import build_cache, build_provider
from datastorage.embedding.isolation import Embeddings
from datastorage.embedding.provider import Provider

__all__ = [
    "Embedder",
    "Embeddings",
    "Provider",
    "VectorCache",
    "build_cache",
    "build_provider",
]
