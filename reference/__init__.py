"""What the answer is: formulas, certified derivatives and rounding allowances.

Nothing in this package imports torch or hypothesis: an oracle that cannot see its
subject cannot share its bugs.
"""
