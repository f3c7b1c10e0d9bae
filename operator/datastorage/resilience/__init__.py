"""What keeps work going while something fails: breakers, pauses, periodic workers, halving, cancellation.

What belongs here: mechanisms that know nothing of what they are used for. What does not: limits and pauses of
one use, which stand with it.
"""
