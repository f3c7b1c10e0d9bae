"""Turns texts into vectors: the models, the cache before them, and the search for bad texts.

What belongs here: everything that knows how texts become vectors. What does not: the tables of vectors
(storage), the texts of records (resources/reading), and the care for pending vectors (pipeline, vectors).
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
