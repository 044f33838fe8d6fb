"""`make bench`: how long a webhook takes to reach the exchange, beside clients that write nothing down.

The web process, the simulated exchange and the load generator are processes of their own on one machine;
see docs/benchmarks.md for what the figures mean.
"""
