"""The chaos run: the whole system against a simulated exchange, broken at random, then held to account."""
