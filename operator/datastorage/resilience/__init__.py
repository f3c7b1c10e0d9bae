"""Mechanisms that keep work going during failures: breakers, pauses, workers, halving, cancellation.

What belongs here: mechanisms that are independent of their use. What does not: the limits and pauses of one
use, which belong beside that use.
"""
