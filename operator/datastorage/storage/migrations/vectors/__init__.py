"""The revisions of the vectors' tables, in order. Never edit one that was released: add the next."""
