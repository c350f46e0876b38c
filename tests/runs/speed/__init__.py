"""How long torch's backward takes: benchmarks beside an analytic floor, and the gate that compares two builds."""
