"""The functions of this package under the names of other packages, for programs that were written for those."""

from multimax.compat import entmax as entmax
