"""What tests, benchmarks and examples share: servers, processes, clients, makers of objects.

What belongs here: something that two of them need. What does not: assertions, scenarios, figures.
"""
