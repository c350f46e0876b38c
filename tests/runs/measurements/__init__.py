"""What was measured: the commands that measure, their figures on file, and the page of them."""
