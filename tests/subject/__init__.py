"""The only door to torch: devices, modes and binding."""
