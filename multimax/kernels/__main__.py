"""``python -m multimax.kernels``: compile the CPU's kernels, unless that is done, and say where they are."""

import sys

from multimax.kernels.cpu import build

if __name__ == "__main__":
    try:
        print(build.load())
    except build.Unavailable as error:
        sys.exit(f"error: {error}")
