"""The hashes that identify contents and texts: SHA-256, 32 bytes."""

import hashlib
from typing import Final

NO_TEXT: Final = hashlib.sha256(b"").digest()
"""The hash of the empty text. All records without words share it, and no other record has it."""


def sha256(content: bytes) -> bytes:
    """Return the hash of bytes."""
    return hashlib.sha256(content).digest()


def text_hash(text: str) -> bytes:
    """Return the hash that identifies a text, which is that of its UTF-8 bytes."""
    return sha256(text.encode("utf-8", "replace"))


def labelled(digest: bytes) -> str:
    """Return a hash as the status and the interfaces show it: sha256:<hex>."""
    return f"sha256:{digest.hex()}"


def unlabelled(text: str) -> bytes:
    """Return the hash in the form of ``labelled``. Raises ValueError for any other text."""
    label, colon, digest = text.partition(":")
    if (label, colon) != ("sha256", ":"):
        raise ValueError("the text is not a hash of the form sha256:<hex>")
    return bytes.fromhex(digest)
