"""The wall: gradients that are known to be wrong, and who accepts them."""
