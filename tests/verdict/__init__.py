"""What to make of what torch answers: comparisons, deviations, explanations, records."""
