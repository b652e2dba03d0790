"""One training process: gathers what it trains with, trains, and ends."""
