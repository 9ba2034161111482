"""``python -m multimax.integrations.fairseq`` prints the value for ``--user-dir``."""

import importlib.util
import sys

from multimax.integrations.fairseq import INSTALL, USER_DIR

print(USER_DIR)
if importlib.util.find_spec("fairseq") is None:
    print(f"note: {INSTALL}", file=sys.stderr)
