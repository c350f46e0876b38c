"""Three kernels that people write, in plain torch and in Triton, with what they compute in plain numpy."""
