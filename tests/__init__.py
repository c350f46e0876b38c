"""The assertions; `subject` is the only door to torch, `verdict` what to make of it, `runs` reads what ran, `meta` tests the suite itself."""
