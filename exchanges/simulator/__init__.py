"""A local exchange: one matching engine behind the wire dialects of real ones.

Plain asyncio Python on aiohttp: no Django and none of our other rooms, so that tests and
benchmarks can start it on its own with `python -m exchanges.simulator`.
"""
