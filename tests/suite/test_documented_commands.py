"""Every command of the README and the docs: its keys compose, its flags exist."""

import re
import shlex
import sys
from pathlib import Path

import pytest

from multimax.suite import cli
from multimax.suite.composition import compose_configuration, readable_overrides, typed
from multimax.suite.figures.__main__ import COMMANDS as FIGURES
from multimax.suite.figures.__main__ import main as figures
from multimax.suite.report.__main__ import main as report

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "experiments").glob("*/README.md"))]
HELP = {"evaluate.py": cli.evaluate, "generate.py": cli.generate, "report": report, "figures": figures}
COMMANDS: dict[str, list[list[str]]] = {
    "evaluate.py": [[]],
    "generate.py": [[]],
    "report": [[], ["serve"], ["record"], ["pack"], ["merge"]],
    "figures": [[], *([name] for name in FIGURES)],
}
COMMAND = re.compile(r"(train\.py|evaluate\.py|generate\.py|multimax\.suite\.(?:report|figures))(?=\s|$)(.*)")


def documented() -> list[tuple[str, str]]:
    """Commands in blocks of code and between backticks, as program and arguments."""
    found: set[tuple[str, str]] = set()
    for page in PAGES:
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        pieces = [line for line in text.splitlines() if line.startswith("    ")] + re.findall(r"`([^`\n]+)`", text)
        for piece in pieces:
            piece = re.sub(r"\s{2,}#.*| # .*", "", piece)
            if "python" in piece or "torchrun" in piece:
                found |= {
                    (match[1].split("multimax.suite.")[-1], match[2].strip()) for match in COMMAND.finditer(piece)
                }
    return sorted(found)


@pytest.mark.parametrize("words", [words for program, words in documented() if program == "train.py"])
def test_a_documented_training_composes(words, monkeypatch):
    if any(mark in words for mark in ("...", "plugins=", "NAME", "$")):
        pytest.skip("this is a pattern of commands")
    if "optuna" in words or "experiment=search" in words:
        pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="needs Optuna: pip install -e '.[optuna]'")
    arguments = shlex.split(words)
    sweep = "-m" in arguments
    overrides = [word for word in arguments if "=" in word and not word.startswith(("hydra/", "hydra."))]
    readable_overrides(overrides, sweep)
    if sweep:  # the first run of it
        overrides = [word.split(",")[0] for word in overrides if "(" not in word]
    config_dir = None
    if "--config-dir" in arguments:
        monkeypatch.chdir(ROOT / "examples" / "own")
        monkeypatch.syspath_prepend(ROOT / "examples" / "own")
        config_dir = arguments[arguments.index("--config-dir") + 1]
    assert typed(compose_configuration(overrides, config_dir))


@pytest.mark.parametrize("program", HELP)
def test_documented_flags_exist(program, monkeypatch, capsys):
    flags = {flag for name, words in documented() if name == program for flag in re.findall(r"(?<!\S)--[a-z-]+", words)}
    known = set()
    for command in COMMANDS[program]:
        monkeypatch.setattr(sys, "argv", [program, *command, "--help"])
        with pytest.raises(SystemExit) as left:
            HELP[program]()
        assert left.value.code == 0
        known |= set(re.findall(r"--[a-z-]+", capsys.readouterr().out))
    assert flags <= known
