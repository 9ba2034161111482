"""fairseq's commands run with our user directory, and we read their files."""

import json
import math
import os
import random
import re
import shlex
import subprocess
import sys
from argparse import Namespace

import pytest
import torch
import yaml

pytest.importorskip("fairseq", reason="the extra 'fairseq' is not installed")

from fairseq.data import Dictionary as FairseqDictionary
from fairseq.data.data_utils import load_indexed_dataset

from multimax.integrations.fairseq import USER_DIR
from multimax.suite.data.bitext import TranslationData, open_bitext
from multimax.suite.data.dictionary import Dictionary
from multimax.suite.data.fairseq_data import read_sentences, write_sentences
from multimax.suite.decoding import Search, translate
from multimax.suite.engine.open import OpenRun
from multimax.suite.errors import UserError
from multimax.suite.fairseq.__main__ import convert
from multimax.suite.fairseq.weights import from_fairseq
from multimax.suite.models.encoder_decoder import AttentionSites, EncoderDecoder, EncoderDecoderConfig
from multimax.suite.runs import Run

pytestmark = pytest.mark.xdist_group("fairseq_commands")  # the folder that they share takes half a minute to make

# Run all commands in one process, since each process takes seconds to import fairseq.
DRIVER = """
import json, sys
from contextlib import redirect_stdout
from importlib import import_module
for command, arguments, output in json.load(sys.stdin):
    sys.argv = [command, *arguments]
    with open(output, "w") as file, redirect_stdout(file):
        import_module(f"fairseq_cli.{command}").cli_main()
"""
GERMAN = shlex.split("der die das ein hund katze haus mann frau sieht hört liebt geht schnell groß")
ENGLISH = shlex.split("the she it a dog cat house man woman sees hears loves goes fast big")
SIZES = {"train": 150, "valid": 20, "test": 13}
COMMON = ["--cpu", "--user-dir", str(USER_DIR), "--required-batch-size-multiple", "1"]
TRAINING = shlex.split("""
    --optimizer multimax_adam --adam-betas (0.9,0.98) --weight-decay 1e-4 --lr 5e-3 --clip-norm 1 --max-tokens 400
    --max-update 6 --no-epoch-checkpoints --no-progress-bar --disable-validation --seed 1
""")
SPARSE = "--reweight evsoftmax --reweight-cross sparsemax --reweight-output entmax15 --criterion multimax_loss"
TRANSLATION = {
    "multimax": ["--reweight", "multimax", "--criterion", "label_smoothed_cross_entropy", "--label-smoothing", "0.1"],
    "sparse": [*SPARSE.split(), "--label-smoothing", "0.1"],
}
FUNCTIONS = {"multimax": ["multimax"] * 4, "sparse": ["evsoftmax", "evsoftmax", "sparsemax", "entmax15"]}


def corpus(folder):
    rng = random.Random(0)
    for split, size in SIZES.items():
        pairs = [[rng.randrange(15) for _ in range(rng.randint(2, 9))] for _ in range(size)]
        for language, words in (("de", GERMAN), ("en", ENGLISH)):
            lines = (" ".join(words[i] for i in pair) + "\n" for pair in pairs)
            (folder / f"{split}.{language}").write_text("".join(lines), encoding="utf-8")


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder in which fairseq preprocessed a tiny corpus, trained models on it and used them."""
    folder = tmp_path_factory.mktemp("fairseq")
    corpus(folder)
    texts = [argument for split in SIZES for argument in (f"--{split}pref", split)]
    commands = [
        ("preprocess", ["-s", "de", "-t", "en", *texts, "--destdir", "data"], "preprocess"),
        ("preprocess", ["--only-source", "--trainpref", "train.en", "--destdir", "text"], "preprocess_text"),
    ]
    for name, options in TRANSLATION.items():
        model = ["--arch", "multimax_transformer_tiny", "--share-decoder-input-output-embed", *options]
        commands.append(("train", ["data", *COMMON, *TRAINING, *model, "--save-dir", name], f"{name}.train"))
        generate = ["--path", f"{name}/checkpoint_last.pt", "--beam", "5", "--max-sentences", "1"]
        limits = ["--max-len-a", "1.2", "--max-len-b", "10"]
        commands.append(("generate", ["data", *COMMON, *generate, *limits], f"{name}.generate"))
    model = shlex.split("""
        --arch multimax_transformer_lm --task language_modeling --reweight multimax --decoder-layers 2
        --tokens-per-sample 16 --decoder-embed-dim 32 --decoder-input-dim 32 --decoder-output-dim 32
        --decoder-ffn-embed-dim 32 --decoder-attention-heads 2 --share-decoder-input-output-embed --save-dir lm
    """)
    commands.append(("train", ["text", *COMMON, *TRAINING, *model], "lm.train"))
    evaluate = ["--path", "lm/checkpoint_last.pt", "--gen-subset", "train", "--tokens-per-sample", "16"]
    commands.append(("eval_lm", ["text", *COMMON, *evaluate], "lm.evaluate"))
    done = subprocess.run(
        [sys.executable, "-c", DRIVER],
        input=json.dumps(commands),
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (folder / "log").write_text(done.stderr)
    return folder


@pytest.mark.parametrize("language", ["de", "en"])
def test_a_preprocessed_folder_is_read_as_fairseq_reads_it(work, language):
    theirs = FairseqDictionary.load(str(work / f"data/dict.{language}.txt"))
    ours = Dictionary.load(work / f"data/dict.{language}.txt")
    assert ours.tokens == theirs.symbols
    assert ours.tokens == Dictionary.from_lines((work / f"train.{language}").read_text().splitlines()).tokens
    for split, size in SIZES.items():
        prefix = work / f"data/{split}.de-en.{language}"
        sentences = read_sentences(prefix, len(ours))
        expected = load_indexed_dataset(str(prefix), theirs)
        assert len(sentences) == len(expected) == size
        for i, line in enumerate((work / f"{split}.{language}").read_text().splitlines()):
            assert sentences[i].tolist() == expected[i].tolist() == ours.encode(line, end=True)


def test_fairseq_reads_what_we_write(work, tmp_path):
    dictionary = Dictionary.load(work / "data/dict.de.txt")
    dictionary.save(tmp_path / "dict.txt")
    theirs = FairseqDictionary.load(str(tmp_path / "dict.txt"))
    assert theirs.symbols == dictionary.tokens
    assert (tmp_path / "dict.txt").read_text() == (work / "data/dict.de.txt").read_text()
    sentences = [dictionary.encode(line, end=True) for line in (work / "test.de").read_text().splitlines()]
    write_sentences(tmp_path / "test", sentences, len(dictionary))
    assert [row.tolist() for row in load_indexed_dataset(str(tmp_path / "test"), theirs)] == sentences


def hypotheses(path):
    """For each sentence, the hypotheses that ``fairseq-generate`` printed: scores in bits, and words."""
    found = {}
    for line in path.read_text().splitlines():
        if match := re.fullmatch(r"H-(\d+)\t(\S+)\t(.*)", line):
            found.setdefault(int(match[1]), []).append((float(match[2]), match[3]))
    return [found[i] for i in sorted(found)]


@pytest.mark.parametrize("name", TRANSLATION)
def test_our_search_translates_a_checkpoint_as_fairseq_generate_does(work, name):
    """Trained by fairseq-train, loaded with weights_only=True, and decoded by both."""
    printed = hypotheses(work / f"{name}.generate")
    assert len(printed) == SIZES["test"]
    bitext = open_bitext(TranslationData("tiny", "files", str(work / "data")))
    config = EncoderDecoderConfig(2, 2, 64, 2, 64)
    *attention, output = ({"name": function} for function in FUNCTIONS[name])
    sizes = len(bitext.source_dictionary), len(bitext.target_dictionary)
    model = EncoderDecoder(config, AttentionSites(*attention), output, *sizes).eval()
    with torch.serialization.safe_globals([Namespace]):
        from_fairseq(model, torch.load(work / name / "checkpoint_last.pt", weights_only=True)["model"])
    for i, expected in enumerate(printed):
        source = torch.tensor(bitext.splits["test"].sources[i].astype("int64"))[None]
        (found,) = translate(model, source, source != 1, Search(5, 1.0, 1.2, 10))
        score, text = expected[0]
        assert bitext.target_dictionary.decode(found[0].tokens) == text
        assert found[0].score / math.log(2) == pytest.approx(score, abs=1e-4)


@pytest.mark.parametrize("name", TRANSLATION)
def test_a_converted_checkpoint_is_a_run(work, name, tmp_path):
    """The model has fairseq's weights and functions, and opens as evaluate.py opens a run."""
    convert(work / name / "checkpoint_last.pt", work / "data", tmp_path / "run")
    run = OpenRun(Run(tmp_path / "run"), ["data.eval_split=test"])
    task = run.task
    sources = [task.encode(line) for line in (work / "test.de").read_text().splitlines()]
    found = [best[1] for best, *_ in task.translate(run.model, run.device, sources)]
    assert found == [row[0][1] for row in hypotheses(work / f"{name}.generate")]
    with pytest.raises(UserError, match="exists: name a new run folder"):
        convert(work / name / "checkpoint_last.pt", work / "data", tmp_path / "run")


def test_what_cannot_be_converted_is_named(work, tmp_path):
    with pytest.raises(UserError, match="is not a checkpoint of fairseq's transformer"):
        convert(work / "lm/checkpoint_last.pt", work / "data", tmp_path / "run")
    with pytest.raises(UserError, match=r"is not a checkpoint of fairseq 0.12"):
        convert(work / "train.de", work / "data", tmp_path / "run")
    with pytest.raises(UserError, match=r"is not a folder of fairseq-preprocess"):
        convert(work / "multimax/checkpoint_last.pt", work / "text", tmp_path / "run")
    with torch.serialization.safe_globals([Namespace]):
        state = torch.load(work / "multimax/checkpoint_last.pt", weights_only=True)
    lstm = Namespace(encoder_layers=1, encoder_embed_dim=64)
    for part, message in (
        ({"optimizer_history": []}, "is not a checkpoint of fairseq 0.12"),
        ({"cfg": {**state["cfg"], "model": lstm}}, "is not a checkpoint of fairseq's transformer"),
    ):
        torch.save(state | part, tmp_path / "other.pt")
        with pytest.raises(UserError, match=message):
            convert(tmp_path / "other.pt", work / "data", tmp_path / "run")
    torch.save({name: state[name] for name in state if name != "model"}, tmp_path / "other.pt")
    with pytest.raises(UserError, match=r"is not a checkpoint of fairseq 0.12: 'model'"):
        convert(tmp_path / "other.pt", work / "data", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_direction_is_the_checkpoints_not_that_of_the_names_of_the_data(work, tmp_path):
    with torch.serialization.safe_globals([Namespace]):
        state = torch.load(work / "multimax/checkpoint_last.pt", weights_only=True)
    task = state["cfg"]["task"]
    assert (task["source_lang"], task["target_lang"]) == (None, None)  # not given: fairseq guesses them from the files
    task["source_lang"], task["target_lang"] = "en", "de"
    # Both languages have as many words, as with a joined dictionary, so sizes do not tell the direction.
    sizes = {len(Dictionary.load(work / f"data/dict.{language}.txt")) for language in ("de", "en")}
    assert len(sizes) == 1
    torch.save(state, tmp_path / "other.pt")
    convert(tmp_path / "other.pt", work / "data", tmp_path / "run")
    config = yaml.safe_load((tmp_path / "run/config.yaml").read_text())["data"]
    assert (config["source_language"], config["target_language"]) == ("en", "de")


def test_the_language_model_is_trained_and_evaluated(work):
    """Its loss is below that of a uniform guess among the 24 tokens, in bits."""
    loss = re.search(r"Loss \(base 2\): ([\d.]+), Perplexity", (work / "log").read_text())
    assert 0 < float(loss[1]) < 4.58
