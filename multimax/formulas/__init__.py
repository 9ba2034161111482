"""Each reweighting function in plain torch: its formula as the paper has it, and how it is computed.

A file begins with ``formula``, the few lines that a reader of the paper looks for, and the reference of the tests. What
follows computes the same for any finite scores, with a gradient in closed form; ``rows`` settles masks and dtypes for
all of them. Nothing here knows a kernel or a module.
"""
