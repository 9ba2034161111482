"""Each reweighting function in plain torch: the formula of its paper, and how it is computed.

Each file begins with a short ``formula`` as in the paper, which the tests use as their reference. What follows computes
the same for any finite scores, with a gradient in closed form; ``rows`` handles masks and dtypes for all of them.
Nothing here depends on a kernel or a module.
"""
