"""Each reweighting function in plain torch: its formula as in the paper, and how it is computed.

Each function's file begins with a short ``formula`` as in the paper, which the tests use as their reference. What
follows computes the same for any finite scores, with a gradient in closed form; ``rows`` deals with masks and dtypes
for all of them. Nothing here depends on a kernel or a module.
"""
