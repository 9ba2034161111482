"""Every command of the README and the docs: its keys compose, its flags, its modules and its files exist."""

import re
import runpy
import shlex
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path
from string import Template

import pytest

from multimax.suite import cli
from multimax.suite.composition import compose_configuration, readable_overrides, typed
from multimax.suite.figures.__main__ import main as figures
from multimax.suite.planned.__main__ import main as planned
from multimax.suite.report.__main__ import main as report

ROOT = Path(__file__).parents[2]
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted(path for path in (ROOT / "docs").rglob("*.md") if "findings" not in path.relative_to(ROOT).parts),
    *sorted((ROOT / "experiments").glob("*/README.md")),
]
HELP = {
    "evaluate.py": cli.evaluate,
    "generate.py": cli.generate,
    "report": report,
    "figures": figures,
    "planned": planned,
}
COMMAND = re.compile(r"(train\.py|evaluate\.py|generate\.py|multimax\.suite\.(?:report|figures|planned))(?=\s|$)(.*)")
OTHER = re.compile(r"python (?:-m )?((?:benchmarks|scripts|multimax)[\w./]*)( [^`]*--[^`]*)")
LOOP = re.compile(r"for (\w+) in ([^;\n]+)|^ *(\w+)=(\S+)$", re.MULTILINE)


def with_values(line: str, text: str) -> list[str]:
    """A shell line with its variables filled in, once for each value that ``text`` gives them."""
    values: dict[str, list[str]] = {}
    for match in LOOP.finditer(text):  # a value may refer to earlier variables
        earlier = {name: " ".join(given) for name, given in values.items()}
        values[match[1] or match[3]] = Template(match[2] or match[4]).safe_substitute(earlier).split()
    values = {name: values[name] for name in re.findall(r"\$(\w+)", line) if name in values}
    turns = range(max(map(len, values.values()), default=1))
    return [Template(line).safe_substitute({name: of[i % len(of)] for name, of in values.items()}) for i in turns]


def pieces() -> list[str]:
    """The lines of code blocks and the text between backticks, without comments."""
    found: set[str] = set()
    for page in PAGES:
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        lines = [line for line in text.splitlines() if line.startswith("    ")]
        found |= {one for line in lines for one in with_values(line, text)} | set(re.findall(r"`([^`\n]+)`", text))
    return sorted(re.sub(r"\s{2,}#.*| # .*", "", piece).strip() for piece in found)


def documented() -> list[tuple[str, str]]:
    """Documented commands as (program, arguments)."""
    commands = [piece for piece in pieces() if "python" in piece or "torchrun" in piece]
    matches = [match for command in commands for match in COMMAND.finditer(command)]
    return sorted({(match[1].split("multimax.suite.")[-1], match[2].strip()) for match in matches})


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
    if sweep:  # try the first run of the sweep
        overrides = [word.split(",")[0] for word in overrides if "(" not in word]
    config_dir = None
    if "--config-dir" in arguments:
        monkeypatch.chdir(ROOT / "examples" / "own")
        monkeypatch.syspath_prepend(ROOT / "examples" / "own")
        config_dir = arguments[arguments.index("--config-dir") + 1]
    assert typed(compose_configuration(overrides, config_dir))


@pytest.mark.parametrize("program", HELP)
def test_documented_flags_and_subcommands_exist(program, monkeypatch, capsys):
    def helped(*command):
        monkeypatch.setattr(sys, "argv", [program, *command, "--help"])
        with pytest.raises(SystemExit) as left:
            HELP[program]()
        assert left.value.code == 0
        return capsys.readouterr().out

    text = helped()
    commands = set() if program.endswith(".py") else set(re.findall(r"^ {2,4}([a-z][a-z-]+)(?: |$)", text, re.M))
    known = set(re.findall(r"--[a-z-]+", "".join([text, *(helped(command) for command in sorted(commands))])))
    for words in (words for name, words in documented() if name == program):
        assert set(re.findall(r"(?<!\S)--[a-z-]+", words)) <= known, words
        first = words.split()[:1]
        if commands and first and re.fullmatch("[a-z-]*[a-z]", first[0]) and not first[0].startswith("-"):
            assert first[0] in commands, words


def test_flags_of_other_programs_exist(monkeypatch, capsys):
    matches = [match for piece in pieces() for match in OTHER.finditer(piece) if not COMMAND.search(match[0])]
    documented = {(match[1], match[2]) for match in matches}
    texts = {}
    # scripts/sweep.py has one flag and no help.
    for program in {program for program, _ in documented} - {"scripts/sweep.py"}:
        monkeypatch.setattr(sys, "argv", [program, "--help"])
        run, where = (runpy.run_path, str(ROOT / program)) if program.endswith(".py") else (runpy.run_module, program)
        with pytest.raises(SystemExit) as left:
            run(where, run_name="__main__")
        assert left.value.code == 0
        texts[program] = capsys.readouterr().out
    assert texts
    for program, words in documented:
        known = re.findall(r"--[a-z-]+", texts.get(program, "--dry-run"))
        assert set(re.findall(r"(?<!\S)--[a-z-]+", words)) <= set(known), (program, words)


def test_what_commands_name_exists():
    commands = pieces()
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M)
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    seen = set()
    for command in commands:
        for module in re.findall(r"python -m ([a-z_.]+)", command):
            seen.add("module")
            assert find_spec(module), command
        for target in re.findall(r"^make ([a-z-]+)", command):
            seen.add("target")
            assert target in targets, command
        for named in re.findall(r"\.\[([a-z,]+)\]'", command):
            seen.add("extra")
            assert set(named.split(",")) <= extras.keys(), command
        for pattern in re.findall(
            r"(?<![\w./-])((?:multimax|tests|docs|configs|scripts|benchmarks|experiments|results)/[\w./*-]*)", command
        ):
            seen.add("file")
            of_any = re.sub("[A-Z]{3,}", "*", pattern)
            assert list(ROOT.glob(of_any.rstrip("/."))), command
    assert seen == {"module", "target", "extra", "file"}


def test_no_release_is_installed_that_is_not_there():
    """Until there is a release, instructions to install an extra must be for a clone."""
    sources = [path for folder in ("multimax", "scripts", "benchmarks") for path in (ROOT / folder).rglob("*.py")]
    for path in (*PAGES, *sources):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"(pip install|extra) .?multimax\b", text), path
