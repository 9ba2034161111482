"""Hand-made records with any configuration and summary."""

import json
from pathlib import Path
from typing import Any

import yaml

from multimax.suite.runs import Run


def write_run(path: Path, config: dict[str, Any], summary: dict[str, Any]) -> Run:
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.yaml").write_text(yaml.safe_dump(config))
    (path / "summary.json").write_text(json.dumps(summary))
    return Run(path)
