"""The only door to torch: devices, modes, binding, comparison, deviations and records."""
