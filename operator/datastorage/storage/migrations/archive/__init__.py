"""The revisions of the archive, in order. Never edit one that was released: add the next."""
