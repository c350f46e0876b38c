"""Kinds of faults that people reported, each planted in kernels of at least three ops beside their sound twins."""
