"""Each reweighting function in plain torch: its formula as the paper has it, and how it is computed.

Each function's file has a short ``formula`` near its top, as in the paper, which the tests use as their reference. What
follows computes the same for any finite scores, with a gradient in closed form; ``rows`` settles masks and dtypes for
all of them. Nothing here knows a kernel or a module.
"""
