"""Turns texts into vectors: the models, the cache before them, and the search for bad texts.

This package holds everything that knows how texts become vectors. The tables of vectors are in storage, the
texts of records in resources/reading, and the work on pending vectors in pipeline and vectors.
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
