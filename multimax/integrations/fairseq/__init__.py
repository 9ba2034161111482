"""The registry's functions in fairseq's own transformers, as a fairseq user directory.

    fairseq-train DATA --user-dir $(python -m multimax.integrations.fairseq) --arch multimax_transformer_iwslt_de_en

Written for fairseq 0.12 (github.com/facebookresearch/fairseq); the extra ``fairseq`` installs a build of it.
"""

from pathlib import Path

# fairseq puts the user directory's parent on sys.path and imports the directory by name. So the name must be unique,
# and the parent must contain nothing else, least of all a package called fairseq.
USER_DIR = Path(__file__).parent / "user_dir" / "multimax_fairseq"

INSTALL = "fairseq is not installed: run pip install -e '.[fairseq]' in the clone"
