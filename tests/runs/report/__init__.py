"""The page of a run: one file that opens offline.

It has the verdicts, a page for each op, the findings and the benchmarks.
"""
