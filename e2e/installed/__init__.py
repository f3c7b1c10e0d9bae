"""Tests of an installation: they drive the operators in its pods, and break what is around them."""
