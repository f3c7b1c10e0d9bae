"""Stands in for a package that the image does not have."""

raise ModuleNotFoundError("the image has no toml", name="toml")
