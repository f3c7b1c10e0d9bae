"""Mechanisms that keep work going during failures: breakers, pauses, workers, halving, cancellation.

This package holds mechanisms that are independent of their use. The limits and pauses for one use are defined
beside that use.
"""
