"""Binance: Spot and USDⓈ-M futures. README.md has the table of what it can do."""
