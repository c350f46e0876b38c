"""The assertions.

`subject` is the only door to torch, `verdict` says what to make of it, `runs` reads what ran, and `meta` tests the
suite itself.
"""
