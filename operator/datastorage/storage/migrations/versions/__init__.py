"""The revisions, in order. Never edit one that was released: add the next."""
