"""``python -m multimax.kernels``: compile the CPU's kernels, unless that is done, and say where they are."""

import sys

from multimax.kernels.cpu import build

if __name__ == "__main__":
    why_not = build.load()
    sys.exit(f"error: {why_not}" if why_not else print(build.library()))
