"""The translation task: its scores, its batches, its checkpoints, its mistakes."""

import json
import os
import subprocess
import sys

import pytest
import torch
from function_kinds import KINDS
from sacrebleu.metrics import BLEU

from multimax.suite.composition import compose_configuration, typed
from multimax.suite.data.segments import IGNORED
from multimax.suite.engine import checkpoint
from multimax.suite.engine.run_writer import RunWriter
from multimax.suite.engine.trainer import Trainer
from multimax.suite.errors import UserError
from multimax.suite.identity import run_name
from multimax.suite.runs import Run
from multimax.suite.tasks.base import Shard
from multimax.suite.tasks.bleu import CorpusBLEU
from multimax.suite.tasks.translation import Translation

WORDS = {
    "eins": "one",
    "zwei": "two",
    "drei": "three",
    "vier": "four",
    "fünf": "five",
    "sechs": "six",
    "sieben": "seven",
}
CPU = torch.device("cpu")
TINY = [
    "task=mt",
    "model.encoder_depth=1",
    "model.decoder_depth=2",
    "model.dim=16",
    "model.num_heads=2",
    "model.ffn_dim=16",
    "model.max_length=64",
    "data.name=counting",
    "data.source=files",
    "data.tokenize=false",
    "data.bpe_merges=null",
    "training.device=cpu",
    "training.batch_size=60",
    "decoding.beam=2",
    "decoding.max_length_extra=5",
    "decoding.batch_tokens=50",
]


@pytest.fixture(scope="session")
def counting(tmp_path_factory):
    """Numbers in German, translated into English in reverse order."""
    root = tmp_path_factory.mktemp("counting")
    german, generator = list(WORDS), torch.Generator().manual_seed(0)
    for split, sentences in (("train", 120), ("valid", 11), ("test", 9)):
        rows = [
            [german[i] for i in torch.randint(len(german), (length,), generator=generator)]
            for length in torch.randint(1, 8, (sentences,), generator=generator).tolist()
        ]
        (root / f"{split}.de").write_text("".join(f"{' '.join(row)}\n" for row in rows), encoding="utf-8")
        english = [" ".join(WORDS[word] for word in reversed(row)) for row in rows]
        (root / f"{split}.en").write_text("".join(f"{line.capitalize()}\n" for line in english))
    return root


def tiny(root, *overrides):
    return [*TINY, f"data.root={root}", f"data.cache_dir={root.parent / 'cache'}", *overrides]


def compose(root, *overrides):
    return typed(compose_configuration(tiny(root, *overrides)))


def random_model(task):
    torch.manual_seed(0)
    model = task.build_model()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


HYPOTHESES = ["the cat sat on the mat .", "", "A dog ran home", "no match here", "it is so ."]
REFERENCES = ["the cat sat on a mat .", "nothing", "a dog ran home .", "something else", "it is so ."]


@pytest.mark.parametrize("lowercase", [True, False])
@pytest.mark.parametrize("tokenize", ["none", "13a"])
def test_bleu_of_parts_adds_up_to_sacrebleus_of_the_whole(tokenize, lowercase):
    bleu = CorpusBLEU("bleu", tokenize, lowercase)
    parts = [slice(0, 2), slice(2, 5), slice(5, 5)]
    sums = dict.fromkeys(bleu.keys, 0.0)
    for part in parts:
        for key, value in bleu.sums(HYPOTHESES[part], REFERENCES[part]).items():
            sums[key] += value
    scorer = BLEU(tokenize=tokenize, lowercase=lowercase, force=True)
    expected = scorer.corpus_score(HYPOTHESES, [REFERENCES])
    assert 0 < expected.score < 100
    assert bleu.score(sums) == pytest.approx(expected.score, abs=1e-12)
    assert bleu.signature() == str(scorer.get_signature())


@torch.no_grad()
@pytest.mark.parametrize("output", ["softmax", "multimax", "sparsemax"])
def test_evaluation_is_that_of_one_sentence_at_a_time(counting, output):
    config = compose(counting, "reweight=multimax", f"reweight/output={output}", "training.label_smoothing=0")
    task = Translation(config)
    model = random_model(task)
    pairs, hypotheses, losses, tokens = task.bitext.splits["validation"], [], [], 0
    for i in range(len(pairs)):
        source, target = (torch.tensor(side[i].astype(int))[None] for side in (pairs.sources, pairs.targets))
        mask = torch.ones_like(source, dtype=torch.bool)
        shifted = torch.cat([target[:, -1:], target[:, :-1]], 1)
        hidden = model.decode(shifted, model.encode(source, mask), mask)
        losses += [model.output.loss(model.scores(hidden)[0], target[0], reduction="sum")]
        tokens += target.numel()
        hypotheses += [task.bitext.tokenized(task.search(model, source, mask)[0])]
    metrics = task.metrics(task.evaluate(model, CPU, Shard()))
    references = [line.lower() for line in (counting / "valid.en").read_text().splitlines()]
    assert metrics["bleu"] == pytest.approx(
        BLEU(tokenize="none", lowercase=True, force=True).corpus_score(hypotheses, [references]).score
    )
    assert metrics["sacrebleu"] == pytest.approx(
        BLEU(tokenize="13a", lowercase=True).corpus_score(hypotheses, [references]).score
    )
    assert metrics["loss"] == pytest.approx(torch.stack(losses).sum().item() / tokens, rel=1e-5)
    assert (metrics["tokens"], metrics["sentences"]) == (tokens, 11)
    assert ("ppl" in metrics) == (output != "sparsemax")
    shards = [task.evaluate(model, CPU, Shard(rank, 3)) for rank in range(3)]
    together = task.metrics({name: sum(shard[name] for shard in shards) for name in shards[0]})
    assert together == pytest.approx(metrics)


@pytest.mark.parametrize(("lowercase", "case"), [("true", "case:lc"), ("false", "case:mixed")])
def test_bleu_minds_case_if_the_model_does(counting, lowercase, case):
    task = Translation(compose(counting, f"data.lowercase={lowercase}"))
    lines = (counting / "test.en").read_text().splitlines()
    assert task.score_text(lines, "test")["sacrebleu"] == pytest.approx(100)
    assert (task.score_text([line.lower() for line in lines], "test")["sacrebleu"] > 99) == (lowercase == "true")
    summary = task.summary()
    assert all(case in signature for signature in summary["signatures"].values())
    assert summary["preparation"]["recipe"]["lowercase"] == (lowercase == "true")


def test_bleu_of_a_subset_leaves_the_loss_whole(counting):
    whole, part = (Translation(compose(counting, f"decoding.validation_sentences={count}")) for count in ("null", 4))
    model = random_model(whole)
    with torch.no_grad():
        expected, metrics = (task.metrics(task.evaluate(model, CPU, Shard())) for task in (whole, part))
        tested = part.test(model, CPU, Shard())
    assert (metrics["loss"], metrics["tokens"]) == (expected["loss"], expected["tokens"])
    assert (metrics["sentences"], expected["sentences"], tested["sentences"]) == (4, 11, 9)


def test_translations_keep_their_lines(counting):
    task = Translation(compose(counting))
    model = random_model(task)
    lines = ["eins zwei drei vier fünf sechs sieben", "", "zwei", "   ", "vier unbekannt", "drei drei"]
    sources = [task.encode(line) for line in lines]
    translations = [[text for _, text in found] for found in task.translate(model, CPU, sources)]
    assert [translations[i] for i in (1, 3)] == [[""], [""]]
    assert translations == [[text for _, text in task.translate(model, CPU, [source])[0]] for source in sources]
    with pytest.raises(UserError, match=r"line 7 has 81 tokens, more than model\.max_length=64"):
        task.encode("zwei " * 80, "line 7")


def test_processes_and_micro_batches_share_each_batch(counting):
    config = compose(counting, "model.dropout=0", "training.micro_batch_size=11")
    assert [config.micro_batches(world) for world in (1, 2, 7)] == [6, 3, 1]
    task = Translation(config)
    model = random_model(task)

    def steps(world, micro_batches):
        shards = [task.train_batches(3, Shard(rank, world, micro_batches)) for rank in range(world)]
        for _ in range(4):
            batches = [batch for shard in shards for batch in next(shard)]
            yield sum(task.loss(model, batch, CPU).item() for batch in batches), sum(map(task.weight, batches))

    whole = list(steps(1, 1))
    for shape in ((2, 1), (2, 3), (40, 1)):  # 40: more than a batch's sentences
        for (loss, weight), (expected_loss, expected_weight) in zip(steps(*shape), whole, strict=True):
            assert weight == expected_weight
            assert loss == pytest.approx(expected_loss, rel=1e-5)
    (batch,) = next(task.train_batches(0, Shard()))
    assert max(batch.source.numel(), batch.targets.numel()) <= 60
    assert task.weight(batch) == (batch.targets != IGNORED).sum()


SITES = ("encoder", "decoder", "cross")


@pytest.mark.parametrize("chosen", SITES)
def test_each_kind_of_attention_can_be_set_apart(counting, chosen):
    config = compose(counting, "reweight=multimax", f"reweight/{chosen}=softmax")
    model = Translation(config).build_model()
    found = {
        "encoder": {type(layer.attention.branch.reweight).__name__ for layer in model.encoder},
        "decoder": {type(layer.attention.branch.reweight).__name__ for layer in model.decoder},
        "cross": {type(layer.cross_attention.branch.reweight).__name__ for layer in model.decoder},
    }
    assert found == {site: {"Softmax" if site == chosen else "MultiMax"} for site in SITES}
    same, other = (
        compose(counting, "reweight=multimax"),
        compose(counting, "reweight=multimax", f"reweight/{chosen}=entmax"),
    )
    assert len({run_name(config), run_name(same), run_name(other)}) == 3
    assert f"-{chosen}" in run_name(config)


def test_the_end_of_a_run_tests_last_best_and_average(counting, tmp_path):
    config = compose(
        counting,
        "reweight=softmax",
        "model.dropout=0",
        "training.steps=12",
        "training.evaluate_every=4",
        "training.average_checkpoints=2",
    )
    folder = RunWriter(tmp_path / "run", config)
    task = Translation(config)
    metrics = Trainer(task, folder).run()
    assert metrics["best_bleu"] == max(r["val/bleu"] for r in Run(folder.path).metrics if "val/bleu" in r)

    weights = {}
    for step in (4, 8, 12):
        model = task.build_model()
        path = folder.run.checkpoints / f"step-{step:08d}"
        if path.exists():
            checkpoint.load_weights(path, model, "model")
            weights[step] = model
    average = task.build_model()
    with torch.no_grad():
        for name, parameter in average.named_parameters():
            parameter.copy_(sum(weights[step].get_parameter(name).double() for step in (8, 12)) / 2)
    best = checkpoint.read_manifest(checkpoint.best(folder.run.checkpoints, higher_is_better=True))["step"]
    for of, model in {"last": weights[12], "best": weights[best], "average": average}.items():
        with torch.no_grad():
            expected = task.metrics(task.test(model.eval(), CPU, Shard()))
        for name, value in expected.items():
            assert metrics[f"test_{name}@{of}"] == pytest.approx(value, rel=1e-6), (name, of)


@pytest.mark.parametrize("name", KINDS)
def test_every_function_learns(counting, tmp_path, name):
    config = compose(
        counting,
        f"reweight={name}",
        "model.dropout=0",
        "model.pre_norm=true",
        "model.dim=32",
        "training.steps=200",
        "training.batch_size=240",
        "training.evaluate_every=200",
        "training.average_checkpoints=null",
        "optimizer.learning_rate=0.005",
        "schedule.warmup_steps=20",
        "training.log_every=50",
    )
    metrics = Trainer(Translation(config), RunWriter(tmp_path / "run", config)).run()
    assert metrics["ppl"] < 5  # about 7.5 if 7 words and the end were drawn at random
    assert metrics["bleu"] > 10


def test_two_processes_do_what_one_does(root, counting, tmp_path):
    arguments = tiny(
        counting, "reweight=sparsemax", "model.dropout=0", "training.steps=6", "training.log_every=1",
        "training.evaluate_every=3", "training.average_checkpoints=2",
    )  # fmt: skip
    records, tested = [], []
    for launcher in ([], ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]):
        run = tmp_path / f"run{len(launcher)}"
        done = subprocess.run(
            [sys.executable, *launcher, str(root / "train.py"), f"run_dir={run}", *arguments],
            cwd=tmp_path, capture_output=True, text=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        records.append(Run(run).metrics)
        tested.append(json.loads((run / "summary.json").read_text())["metrics"])
    for expected, record in zip(*records, strict=True):
        for key in ("step", "train/loss", "train/learning_rate", "val/loss", "val/tokens", "val/bleu", "val/sentences"):
            assert record.get(key) == pytest.approx(expected.get(key), abs=1e-5), (key, expected["step"])
    assert {name for name in tested[0] if name.startswith("test_bleu")} == {
        f"test_bleu@{of}" for of in ("last", "best", "average")
    }
    assert tested[1] == pytest.approx(tested[0], abs=1e-4)


MISTAKES = {
    "model.num_heads=3": "not a multiple of model.num_heads",
    "model.dim=15": "not a multiple|not even",
    "model.decoder_depth=0": "below 1",
    "model.share_embeddings=some": "choose one of decoder, all",
    "model.dropout=2": r"not in \[0, 1\]",
    "model.dim=2 model.num_heads=1": "below 4",
    "model.as_released=true reweight/cross=multimax": "reweight.cross is multimax, but",
    "decoding.beam=0": "decoding.beam=0 is below 1",
    "decoding.max_length_ratio=-1": "decoding.max_length_ratio",
    "decoding.length_penalty=nan": "decoding.length_penalty=nan is not finite",
    "decoding.validation_sentences=0": "below 1",
    "data.source=file": "choose one of synthetic, files",
    "data.target_language=de": "both de",
    "training.average_checkpoints=1": "below 2",
    "training.checkpoint_every=5": "null training.checkpoint_every",
    "reweight.cross.order=1": "reweight.cross",
    "+model.deepth=2": "model.deepth",
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_before_anything_is_loaded(counting, mistake):
    with pytest.raises(UserError, match=MISTAKES[mistake]) as caught:
        compose(counting, "training.average_checkpoints=2", *mistake.split())
    assert "\n" not in str(caught.value)


DATA_MISTAKES = {
    "model.max_length=5": r"more than model\.max_length=5",
    "model.share_embeddings=all": "joined_dictionary=true",
    "data.eval_split=test_2017": "data.eval_split=test_2017",
    "data.source_language=fr": "no training text in fr",
    "training.batch_size=1": "holds no sentence pair",
}


@pytest.mark.parametrize("mistake", DATA_MISTAKES)
def test_data_that_do_not_fit_are_one_line(counting, mistake):
    with pytest.raises(UserError, match=DATA_MISTAKES[mistake]) as caught:
        Translation(compose(counting, mistake))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("site", SITES)
def test_other_tasks_have_no_such_site(site):
    with pytest.raises(UserError, match=f"reweight.{site}: only task=mt has this site"):
        typed(compose_configuration(["task=deit", f"reweight/{site}=softmax"]))


def test_the_recipe_at_paper_scale_is_fairseqs():
    config = typed(compose_configuration(["task=mt", "scale=paper"]))
    optimizer, schedule, training, model = config.optimizer, config.schedule, config.training, config.model
    assert (optimizer.learning_rate, optimizer.beta1, optimizer.beta2) == (5e-4, 0.9, 0.98)
    assert (optimizer.weight_decay, optimizer.clip_norm) == (1e-4, None)
    assert (schedule.name, schedule.warmup_steps, schedule.warmup_rate) == ("inverse_sqrt", 4000, 1e-7)
    assert (training.batch_size, training.label_smoothing, training.average_checkpoints) == (4096, 0.1, 10)
    assert (model.encoder_depth, model.decoder_depth, model.dim, model.num_heads, model.ffn_dim) == (6, 6, 512, 4, 1024)
    assert (model.dropout, model.pre_norm, model.share_embeddings, model.as_released) == (0.3, False, "decoder", False)
    assert (config.decoding.beam, config.decoding.max_length_ratio, config.decoding.max_length_extra) == (5, 1.2, 10)
    assert config.reweight.own() == {}
