"""The assertions; `subject` is the only door to torch, `meta` tests the suite itself."""
