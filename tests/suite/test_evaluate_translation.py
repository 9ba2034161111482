"""evaluate.py on a translation run: scoring it again, translating, scoring text, mistakes."""

import io
import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict
from types import SimpleNamespace

import pytest
import torch
import yaml
from sacrebleu.metrics import BLEU

from multimax.suite import cli
from multimax.suite.composition import compose_configuration, typed
from multimax.suite.data.preparation import DESCRIPTION
from multimax.suite.engine.run_writer import RunWriter
from multimax.suite.engine.trainer import Trainer
from multimax.suite.tasks import task_module

GERMAN = ["Der Junge schläft.", "Die Ärztin lacht!", "Schläft der Hund?", "Das Kind kauft ein.", "Der Hund lacht."]
ENGLISH = [
    "The boy sleeps.",
    "The doctor laughs!",
    "Does the dog sleep?",
    "The child goes shopping.",
    "The dog laughs.",
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run of a tiny model; each of its splits is the same five sentences."""
    folder = tmp_path_factory.mktemp("translation")
    for split in ("train", "valid", "test"):
        for language, lines in (("de", GERMAN), ("en", ENGLISH)):
            (folder / f"{split}.{language}").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    config = typed(
        compose_configuration(
            [
                "task=mt", "reweight=multimax", "model.encoder_depth=1", "model.decoder_depth=1", "model.dim=32",
                "model.num_heads=2", "model.ffn_dim=32", "model.dropout=0", "model.max_length=40", "data.name=five",
                "data.source=files", f"data.root={folder}", f"data.cache_dir={folder / 'cache'}",
                "data.bpe_merges=20", "training.steps=30", "training.evaluate_every=10", "training.device=cpu",
                "training.average_checkpoints=2", "training.batch_size=100", "optimizer.learning_rate=0.01",
                "schedule.warmup_steps=5", "decoding.beam=2",
            ]
        )
    )  # fmt: skip
    Trainer(task_module("mt").create(config), RunWriter(folder / "run", config)).run()
    return folder / "run"


@pytest.fixture
def evaluate(monkeypatch, capsys):
    """Call evaluate.py with arguments and standard input; returns exit code, output and errors."""

    def command(*arguments, stdin: str | bytes = "", kind=io.BytesIO):
        monkeypatch.setattr(sys, "argv", ["evaluate.py", *map(str, arguments)])
        data = stdin if isinstance(stdin, bytes) else stdin.encode()
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=kind(data)))
        code = 0
        try:
            cli.evaluate()
        except SystemExit as stopped:
            code = stopped.code
        return code, *capsys.readouterr()

    return command


@pytest.mark.parametrize("which", ["last", "best", "average"])
def test_the_test_scores_of_a_run_again(run, evaluate, which):
    summary = json.loads((run / "summary.json").read_text())["metrics"]
    scored = json.loads(evaluate(run, "--checkpoint", which, "--split", "test")[1])
    for name in ("bleu", "sacrebleu", "ppl", "loss", "tokens", "sentences"):
        assert scored[name] == pytest.approx(summary[f"test_{name}@{which}"], rel=1e-6)
    assert scored["checkpoint"].count("step-") == (2 if which == "average" else 1)


def test_signatures_say_how_bleu_was_computed(run):
    signatures = json.loads((run / "summary.json").read_text())["signatures"]
    assert "case:lc|eff:no|tok:none" in signatures["bleu"]
    assert "case:lc|eff:no|tok:13a" in signatures["sacrebleu"]


def test_a_file_and_standard_input_are_translated_line_by_line(run, evaluate, tmp_path):
    lines = [GERMAN[3], "", *GERMAN[:2], "Unbekannte Wörter & Zeichen"]
    text = "".join(f"{line}\r\n" for line in lines)
    (tmp_path / "text.de").write_bytes(text.encode())
    code, printed, _ = evaluate(run, "--translate", tmp_path / "text.de")
    translations = printed.removesuffix("\n").split("\n")
    assert code == 0
    assert len(translations) == len(lines)
    assert translations[1] == ""
    assert evaluate(run, "--translate", "-", stdin=text)[1] == printed
    for line, translation in zip(lines, translations, strict=True):
        assert evaluate(run, "--translate", "-", stdin=f"{line}\n")[1] == f"{translation}\n"


def test_the_best_few_of_each_line_come_with_its_number_and_their_scores(run, evaluate):
    best = evaluate(run, "--beam", "3", "--translate", "-", stdin="\n".join(GERMAN))[1].splitlines()
    printed = evaluate(run, "--beam", "3", "--nbest", "2", "--translate", "-", stdin="\n".join(GERMAN))[1]
    rows = [line.split("\t") for line in printed.splitlines()]
    assert [int(number) for number, *_ in rows] == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert [text for _, _, text in rows[::2]] == best
    for (_, first, _), (_, second, _) in zip(rows[::2], rows[1::2], strict=True):
        assert 0 > float(first) >= float(second)


def test_a_terminal_gets_each_translation_before_the_next_line(run, evaluate, monkeypatch):
    seen = []

    class Terminal(io.BytesIO):
        def isatty(self):
            return True

        def __next__(self):
            seen.append("line")
            return super().__next__()

    monkeypatch.setattr(cli, "print", lambda *_, **__: seen.append("translation"), raising=False)
    evaluate(run, "--translate", "-", stdin="\n".join(GERMAN[:2]), kind=Terminal)
    assert seen == ["line", "translation", "line", "translation", "line"]


def test_a_line_too_long_is_found_before_the_first_is_translated(run, evaluate, tmp_path):
    path = tmp_path / "text.de"
    path.write_text("\n".join(["Der Hund lacht."] * 300 + ["Hund " * 60]))
    code, printed, errors = evaluate(run, "--translate", path)
    assert (code, printed) == (2, "")
    assert f"line 301 of {path} has " in errors


def test_a_byte_order_mark_is_no_part_of_the_text(run, evaluate):
    text = "\n".join(GERMAN)
    assert evaluate(run, "--translate", "-", stdin=f"\ufeff{text}") == evaluate(run, "--translate", "-", stdin=text)


def test_a_reader_that_leaves_ends_it_quietly(run, root):
    command = [sys.executable, str(root / "evaluate.py"), str(run), "--translate", "-"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, **pipes) as process:
        process.stdout.close()
        process.stdin.write("\n".join(GERMAN).encode())
        process.stdin.close()
        assert (process.stderr.read(), process.wait(timeout=120)) == (b"", 141)


def test_a_folder_of_fairseqs_without_its_bpe_is_warned_of(run, evaluate, tmp_path, caplog):
    (prepared,) = (run.parent / "cache").glob("five-*/")
    for path in prepared.iterdir():
        if path.is_file() and path.name not in (DESCRIPTION, "code"):
            shutil.copy(path, tmp_path)
    other = evaluate(run, f"data.root={tmp_path}", "--translate", "-", stdin="der hund")
    assert other[0] == 2
    assert "segmentation" in other[2]
    # A run converted from fairseq records nothing about its data.
    converted = shutil.copytree(run, tmp_path / "converted")
    (converted / "data.json").unlink()
    code, printed, _ = evaluate(converted, f"data.root={tmp_path}", "--translate", "-", stdin="der hund")
    assert (code, printed.count("\n")) == (0, 1)
    assert f"{tmp_path} has no file code with the merges of its BPE" in caplog.text


def test_what_was_translated_scores_as_the_evaluation_did(run, evaluate, tmp_path):
    translated = tmp_path / "translated.en"
    translated.write_text(evaluate(run, "--translate", run.parent / "test.de")[1])
    scored = json.loads(evaluate(run, "--hypotheses", translated, "--split", "test")[1])
    expected = json.loads(evaluate(run, "--split", "test")[1])
    assert scored["sacrebleu"] == pytest.approx(expected["sacrebleu"])
    for printed in (scored, expected):
        assert printed["split"] == "test"
        assert "tok:13a" in printed["signatures"]["sacrebleu"]
    hypotheses = translated.read_text().splitlines()
    scorer = BLEU(tokenize="13a", lowercase=True)
    assert scored["sacrebleu"] == pytest.approx(scorer.corpus_score(hypotheses, [ENGLISH]).score)
    perfect = json.loads(evaluate(run, "--hypotheses", "-", stdin="\n".join(ENGLISH))[1])
    assert (perfect["bleu"], perfect["sacrebleu"]) == (pytest.approx(100), pytest.approx(100))


def test_a_wider_beam_and_the_length_penalty_reach_the_search(run, evaluate, monkeypatch):
    from multimax.suite import decoding

    searches = []
    translate = decoding.translate
    monkeypatch.setattr(
        decoding, "translate", lambda *arguments: searches.append(arguments[3]) or translate(*arguments)
    )
    evaluate(run, "--beam", "3", "--length-penalty", "0.5", "--translate", "-", stdin=GERMAN[0])
    assert [(search.beam, search.length_penalty) for search in searches] == [(3, 0.5)]


@pytest.mark.parametrize(
    ("arguments", "stdin", "expected"),
    [
        (["--hypotheses", "-"], "one\ntwo\n", "standard input has 2 lines, but validation has 5 sentences"),
        (["--hypotheses", "-"], "", "standard input is empty"),
        (["--translate", "-"], "", "standard input is empty"),
        (["--translate", "nowhere.txt"], "", "nowhere.txt cannot be read: No such file"),
        (["--translate", "-"], b"gut\n\xff\n", "standard input:2 is not UTF-8"),
        (["--translate", "-"], b"gut\nder\0Hund\n", "standard input:2 holds a null character"),
        (["--hypotheses", "-"], "gut\rschlecht\r", "standard input ends its lines with carriage returns"),
        (["--translate", "-"], "Hund " * 60, "more than model.max_length=40"),
        (["--translate", "-"], "Hund\n" * 3 + "Hund " * 60, "line 4 of standard input has"),
        (["--translate", "-", "--nbest", "3"], "Hund", "--nbest 3 is not from 1 to decoding.beam=2"),
        (["--nbest", "1"], "", "--nbest is for --translate"),
        (["--hypotheses", "-", "--beam", "3"], "one", "--beam, --length-penalty, --checkpoint and --ema have no use"),
        (["--hypotheses", "-", "--checkpoint", "best"], "one", "--checkpoint and --ema have no use"),
        (["--split", "test_2017"], "", "data.eval_split=test_2017"),
        (["--beam", "0"], "", "beam=0 is below 1"),
        (["--checkpoint", "average", "--ema"], "", "--checkpoint average"),
    ],
)
def test_a_mistake_is_one_line(run, evaluate, arguments, stdin, expected):
    code, printed, errors = evaluate(run, *arguments, stdin=stdin)
    assert (code, printed) == (2, "")
    assert errors.count("\n") == 1
    assert expected in errors


@pytest.mark.parametrize(
    "arguments", [["--translate", "nowhere.txt"], ["--hypotheses", "nowhere.txt"], ["--checkpoint", "nonsense"]]
)
def test_a_missing_file_or_checkpoint_is_named_before_the_data_are_opened(run, evaluate, arguments):
    code, _, errors = evaluate(run, "data.root=/nonexistent", *arguments)
    assert code == 2
    assert arguments[1] in errors


@pytest.mark.parametrize("option", ["--translate", "--hypotheses"])
def test_another_task_does_not_translate(evaluate, tmp_path, option):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(asdict(typed(compose_configuration(["task=deit"])))))
    code, _, errors = evaluate(tmp_path, option, "-", stdin="Hund")
    assert code == 2
    assert "is a run of task=deit: this needs one of task=mt" in errors


def test_two_runs_of_one_search_give_the_same_text(run, evaluate):
    torch.manual_seed(1)
    first = evaluate(run, "--translate", "-", stdin="\n".join(GERMAN))
    torch.manual_seed(2)
    assert evaluate(run, "--translate", "-", stdin="\n".join(GERMAN)) == first
