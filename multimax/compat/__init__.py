"""This package's functions under the names of other packages, for programs written for those."""

from multimax.compat import entmax as entmax
