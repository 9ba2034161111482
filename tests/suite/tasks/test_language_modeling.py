"""The language-modelling task: its evaluation, its memory across a restart, its mistakes."""

import json
import math
import subprocess
import sys

import pytest
import torch
from function_kinds import KINDS

from multimax.suite.composition import compose_configuration, typed
from multimax.suite.data.segments import TextBatch
from multimax.suite.engine.run_writer import RunWriter
from multimax.suite.engine.trainer import Trainer
from multimax.suite.errors import UserError
from multimax.suite.models.transformer_xl import Reach
from multimax.suite.tasks.base import Shard
from multimax.suite.tasks.language_modeling import MODELS, SMOOTHING, LanguageModeling

WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
SIZES = ["model.depth=2", "model.dim=12", "model.num_heads=3", "model.ffn_dim=16"]
XL = [
    *SIZES,
    "model.segment_length=6",
    "model.memory_length=6",
    "model.eval_segment_length=4",
    "model.eval_memory_length=7",
    "model.eval_clamp_length=5",
    "model.dropout=0.1",
]
LM = ["model=transformer_lm", *SIZES, "model.segment_length=8", "model.eval_context=5", "model.dropout=0.1"]


@pytest.fixture
def text(tmp_path):
    root = tmp_path / "text"
    root.mkdir()
    for split, seed, lines in (("train", 0, 60), ("valid", 1, 6), ("test", 2, 3)):
        steps = torch.randint(1, 4, (lines, 7), generator=torch.Generator().manual_seed(seed))
        # Each word is one of the three that come after the previous one in WORDS.
        rows = (steps.cumsum(1) % len(WORDS)).tolist()
        (root / f"{split}.txt").write_text("".join(f"{' '.join(WORDS[i] for i in row)} <unk>\n" for row in rows))
    return root


def compose(root, *overrides):
    fixed = [
        "task=lm",
        "data=wikitext2",
        f"data.root={root}",
        f"data.cache_dir={root.parent / 'cache'}",
        "training.batch_size=4",
        "training.device=cpu",
        "data.eval_batch_size=3",
    ]
    return typed(compose_configuration([*fixed, *overrides]))


def build(task, seed=0):
    torch.manual_seed(seed)
    model = task.build_model()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


@torch.no_grad()
@pytest.mark.parametrize("output", ["softmax", "multimax", "sparsemax"])
@pytest.mark.parametrize("arguments", [XL, [*XL, "model.cutoffs=[4,9]"], LM], ids=["xl", "adaptive", "lm"])
def test_evaluation_is_that_of_one_token_at_a_time(text, arguments, output):
    task = LanguageModeling(compose(text, *arguments, "reweight=multimax", f"reweight/output={output}"))
    model = build(task)
    metrics = task.metrics(task.evaluate(model, torch.device("cpu"), Shard()))
    ids = torch.from_numpy(task.eval_ids.astype(int))
    probabilities, losses = [], []
    for i in range(len(ids) - 1):
        if task.recurrent:
            count = task.config.data.eval_batch_size
            stream = max(b for b in ((len(ids) - 1) * k // count for k in range(count)) if b <= i)
            # Tokens of a segment see each other and the memory from before it.
            first, memory = i - (i - stream) % 4, None
            for start in range(stream, first, 4):
                _, memory = model.encode(ids[None, start : start + 4], memory)
            hidden, _ = model.encode(ids[None, first : i + 1], memory)
        else:
            hidden, _ = model.encode(ids[None, max(0, i - i % 3 - 5) : i + 1])
        probabilities.append(model.weights(hidden[:, -1])[0, ids[i + 1]])
        losses.append(model.losses(hidden[:, -1], ids[i + 1 : i + 2])[0])
    probabilities = torch.stack(probabilities)
    assert metrics["tokens"] == len(ids) - 1
    assert metrics["loss"] == pytest.approx(torch.stack(losses).mean().item(), rel=1e-4)
    context = "mem7" if task.recurrent else "ctx5"
    if output == "sparsemax":
        assert 0 < metrics["zero_targets"] == pytest.approx(100 * (probabilities == 0).float().mean().item())
        smoothed = (1 - SMOOTHING) * probabilities + SMOOTHING / len(task.corpus.vocabulary)
        assert metrics[f"smoothed_ppl@{context}"] == pytest.approx(math.exp(-smoothed.log().mean()), rel=1e-4)
        assert not any(name.startswith("ppl") for name in metrics)
    else:
        assert metrics[f"ppl@{context}"] == pytest.approx(math.exp(-probabilities.log().mean()), rel=1e-4)
        assert metrics["bits_per_word"] == pytest.approx(math.log2(metrics[f"ppl@{context}"]))
    shards = [task.evaluate(model, torch.device("cpu"), Shard(rank, 2)) for rank in range(2)]
    together = task.metrics({name: shards[0][name] + shards[1][name] for name in shards[0]})
    assert together == pytest.approx(metrics)


def test_a_uniform_model_has_the_vocabulary_for_perplexity(text):
    task = LanguageModeling(compose(text, *LM, "reweight=softmax"))
    model = build(task)
    torch.nn.init.zeros_(model.embedding.tables[0])
    with torch.no_grad():
        metrics = task.metrics(task.evaluate(model, torch.device("cpu"), Shard()))
    assert metrics["ppl@ctx5"] == pytest.approx(len(task.corpus.vocabulary))
    assert metrics["unigram_ppl"] < metrics["ppl@ctx5"]


def test_micro_batches_and_processes_carry_the_memory_of_their_rows(text):
    config = compose(text, *XL, "model.dropout=0", "reweight=sparsemax")
    task = LanguageModeling(config)
    model = build(task).train()
    model.train_reach = Reach(6)
    device = torch.device("cpu")

    def run(shards, steps, state=None):
        tasks = [LanguageModeling(config) for _ in shards]
        for part, shard in zip(tasks, shards, strict=True):
            if state:
                part.load_state(state, shard)
        batches = [part.train_batches(steps[0], shard) for part, shard in zip(tasks, shards, strict=True)]

        def loss_of_step():
            pairs = [(part, batch) for part, mine in zip(tasks, batches, strict=True) for batch in next(mine)]
            return sum(part.loss(model, batch, device).item() for part, batch in pairs)

        losses = [loss_of_step() for _ in steps]
        return losses, {"memory": torch.cat([part.state()["memory"] for part in tasks])}

    whole, memory = run([Shard()], range(9))
    first, halfway = run([Shard(0, 2, 1), Shard(1, 2, 1)], range(5))
    second, end = run([Shard(0, 1, 4)], range(5, 9), halfway)
    assert first + second == pytest.approx(whole, rel=1e-6)
    torch.testing.assert_close(end["memory"], memory["memory"])


def test_memory_ends_with_the_stream(text):
    task = LanguageModeling(compose(text, *XL))
    model = build(task).train()
    batches = task.train_batches(0, Shard())
    for step in range(task.steps_per_epoch + 1):
        (batch,) = next(batches)
        assert batch.fresh == (step % task.steps_per_epoch == 0)
        task.loss(model, batch, torch.device("cpu"))
    assert task.state()["memory"].shape == (4, 2, 6, 12)
    assert isinstance(batch, TextBatch)


def test_weights_of_another_vocabulary_are_refused(text):
    model = build(LanguageModeling(compose(text, *LM)))
    file = text / "train.txt"
    file.write_text(file.read_text().replace("one", "uno"))
    other = build(LanguageModeling(compose(text, *LM)))
    assert len(model.embedding.tables[0]) == len(other.embedding.tables[0])
    with pytest.raises(UserError, match="another vocabulary"):
        other.load_state_dict(model.state_dict())


MISTAKES = {
    "model.name=transformer": "choose one of transformer_xl, transformer_lm",
    "model.num_heads=5": "not a multiple of model.num_heads",
    "model.dim=15": "not even",
    "model.dim=2": "below 4",
    "model.num_heads=0": "below 1",
    "model.depth=0": "below 1",
    "model.cutoffs=[9,4]": "must ascend",
    "model.eval_context=4": "belongs to transformer_lm",
    "model.memory_length=null": "needs model.memory_length",
    "model.eval_memory_length=0": "needs a model.eval_memory_length above 0",
    "training.label_smoothing=0.1": "label_smoothing",
    "data.unit=sentence": "choose one of word, subword, character",
    "data.eval_split=dev": "choose one of validation, test",
    "data.source=pydocs": "choose one of pydoc, files",
    "data.eval_batch_size=0": "below 1",
    "data.max_tokens=2": "below 3",
    "data.rot=here": "data.root",
    "model.deepth=2": "model.depth",
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_before_anything_is_loaded(text, mistake):
    mistake_key = mistake if mistake.split("=")[0] not in ("data.rot", "model.deepth") else f"+{mistake}"
    with pytest.raises(UserError, match=MISTAKES[mistake].replace("[", r"\[")) as caught:
        compose(text, *XL, mistake_key)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("override", ["model.cutoffs=[4]", "model.memory_length=4", "model.eval_context=8"])
def test_what_transformer_lm_lacks_is_one_line(text, override):
    with pytest.raises(UserError, match=r"transformer_lm|model\.segment_length") as caught:
        compose(text, *LM, override)
    assert "\n" not in str(caught.value)


def test_cutoffs_beyond_the_vocabulary_are_one_line(text):
    with pytest.raises(UserError, match=r"must stay below the 14 tokens .* model\.cutoffs=\[\] turns"):
        LanguageModeling(compose(text, *XL, "model.cutoffs=[4,20]"))


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("arguments", [XL, LM], ids=["xl", "lm"])
def test_every_function_learns(text, tmp_path, name, arguments):
    config = compose(
        text,
        *arguments,
        f"reweight={name}",
        "model.dropout=0",
        "training.steps=50",
        "optimizer.learning_rate=0.01",
        "schedule.warmup_steps=3",
        "training.log_every=50",
        "training.evaluate_every=50",
    )
    folder = RunWriter(tmp_path / "run", config)
    metrics = Trainer(LanguageModeling(config), folder).run()
    assert metrics["ppl@mem7" if arguments is XL else "ppl@ctx5"] < 0.8 * metrics["unigram_ppl"]


def test_train_evaluate_and_generate_are_commands(root, text, tmp_path):
    def command(script, *arguments):
        return subprocess.run(
            [sys.executable, str(root / script), *arguments], cwd=tmp_path, capture_output=True, text=True
        )

    data = [f"data.root={text}", f"data.cache_dir={tmp_path / 'cache'}"]
    done = command(
        "train.py",
        "task=lm",
        "scale=small",
        "reweight=multimax",
        *data,
        *XL,
        "model.cutoffs=[4]",
        "training.batch_size=4",
        "training.steps=3",
        "training.precision=fp32",
        "run_dir=run",
    )
    assert done.returncode == 0, done.stderr
    assert "tokens per second, peak memory" in done.stdout
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())["metrics"]
    scored = json.loads(command("evaluate.py", "run").stdout)
    assert scored["ppl@mem7"] == pytest.approx(summary["ppl@mem7"], rel=1e-6)
    assert json.loads(command("evaluate.py", "run", "data.eval_split=test").stdout)["tokens"] == 26
    written = command("generate.py", "run", "--prompt", "one three", "--tokens", "5", "--top-p", "0.9")
    assert written.stdout.startswith("one three")
    assert len(written.stdout.split(" ")) > 4
    refused = command("generate.py", "run", "--top-p", "2")
    assert refused.returncode == 2
    assert refused.stderr == "error: top_p=2.0 is not in (0, 1]\n"


def test_the_recipes_at_paper_scale_are_the_published_ones():
    xl, lm = (typed(compose_configuration(["task=lm", "scale=paper", f"model={m}"])) for m in MODELS)
    assert (xl.training.batch_size, xl.model.segment_length, xl.training.steps) == (60, 150, 200_000)
    assert (xl.optimizer.learning_rate, xl.optimizer.clip_norm, xl.schedule.name) == (2.5e-4, 0.25, "cosine")
    assert (xl.model.depth, xl.model.dim, xl.model.num_heads, xl.model.ffn_dim) == (16, 410, 10, 2100)
    assert (xl.model.memory_length, xl.model.cutoffs) == (150, [20_000, 40_000, 200_000])
    evaluation = (xl.model.eval_segment_length, xl.model.eval_memory_length, xl.model.eval_clamp_length)
    assert (*evaluation, xl.model.eval_same_length) == (64, 640, 400, True)

    assert lm.training.batch_size * lm.model.segment_length == 65_536
    assert (lm.training.steps, lm.optimizer.learning_rate, lm.optimizer.clip_norm) == (50_000, 5e-4, None)
    assert (lm.optimizer.beta2, lm.optimizer.weight_decay) == (0.98, 0.01)
    assert (lm.schedule.name, lm.schedule.warmup_steps, lm.schedule.warmup_rate) == ("inverse_sqrt", 4000, 1e-7)
    assert (lm.model.depth, lm.model.dim, lm.model.num_heads, lm.model.ffn_dim) == (6, 512, 8, 2048)
    assert (lm.model.eval_context, lm.model.dropout, lm.reweight.output["name"]) == (400, 0.1, "multimax")


@pytest.mark.parametrize("scale", ["demo", "small", "paper"])
@pytest.mark.parametrize("model", MODELS)
def test_a_model_brings_its_own_recipe(scale, model):
    config = typed(compose_configuration(["task=lm", f"scale={scale}", f"model={model}"]))
    assert config.model.name == model
    assert config.schedule.name == {"transformer_xl": "cosine", "transformer_lm": "inverse_sqrt"}[model]
