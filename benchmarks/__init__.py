"""Benchmarks: this project against the direct library call, in the same run. `./dev bench SUITE`.

Wall times of a shared machine say little, so each result is a ratio: both sides run in turns of a fraction of a
second, and the median over the turns is compared. Progress goes to stderr, one JSON line a result to stdout.
"""
