"""A planned run of train.py leaves every measure behind, but no weights and no local paths."""

import pytest

from multimax.suite.measures.attention_rows import MEASURES
from multimax.suite.plan import Arm
from multimax.suite.planned.table import unpacked
from multimax.suite.planned.training import Trainings

STEPS = ["training.epochs=null", "training.steps=8", "training.evaluate_every=8", "training.log_every=1"]
IMAGES = ["task=deit", "scale=demo", "model.depth=3", "model.embed_dim=16", *STEPS]
TEXT = [
    "data.source=files",
    "model.dim=16",
    "model.ffn_dim=16",
    "schedule.warmup_steps=2",
    "training.device=cpu",
    *STEPS,
]
LANGUAGE = ["task=lm", "model=transformer_lm", "data=wikitext2", "model.depth=1", "model.segment_length=8", *TEXT]
LANGUAGE += ["model.eval_context=4", "training.batch_size=4", "data.eval_batch_size=4"]
TRANSLATION = ["task=mt", "model.encoder_depth=3", "model.decoder_depth=1", "data.tokenize=false", "data.name=words"]
TRANSLATION += ["data.bpe_merges=null", "model.max_length=40", "training.batch_size=60", "decoding.beam=1", *TEXT]


@pytest.fixture
def places(tmp_path):
    """Overrides for a text that counts, and its translation, which is the same text."""
    words = ["one", "two", "three", "four", "five", "six", "seven", "eight"]
    root = tmp_path / "text"
    root.mkdir()
    for split, lines in (("train", 200), ("valid", 40), ("test", 60)):
        rows = "".join(" ".join(words[(i + j) % 8] for j in range(4 + i % 5)) + "\n" for i in range(lines))
        for suffix in ("txt", "de", "en"):
            (root / f"{split}.{suffix}").write_text(rows)
    return [f"data.root={root}", f"data.cache_dir={tmp_path / 'cache'}"]


def runs_of(kind, places, folder):
    overrides, used = {"images": (IMAGES, []), "text": (LANGUAGE, places[:1]), "pairs": (TRANSLATION, places)}[kind]
    return Trainings(overrides, {"attn_scale": ["model.attn_scale=true"]}, used, folder)


@pytest.mark.parametrize(("kind", "measure"), [("images", "top1"), ("text", "loss"), ("pairs", "test_sacrebleu@last")])
def test_a_run_is_measured_in_every_way_before_it_goes(kind, measure, places, tmp_path):
    folder = tmp_path / "unfinished"
    cells = runs_of(kind, places, folder).run(Arm("multimax", 0.01), 1000)
    assert not any(folder.iterdir())
    assert not any(str(tmp_path) in value for value in cells.values())
    examples = unpacked(cells[f"examples:{measure}"])
    # The jackknife's mean differs from BLEU by BLEU's bias, which is large while almost nothing is
    # translated.
    if kind != "pairs":
        assert examples.mean() == pytest.approx(float(cells[measure]), rel=1e-3)
    assert len(examples) == {"images": 360, "text": 200, "pairs": 60}[kind]
    assert all(float(cells[name]) >= 0 for name in ("third_quarter", "last_quarter", *MEASURES))
    sites = {"images": 3, "text": 1, "pairs": 5}[kind]
    assert sum(name.startswith("gini:") for name in cells) == sites
    assert sum(name.startswith(("ranges.", "ts.")) for name in cells) == 8 * sites
    layers = [name for name in cells if name.startswith("patch_similarity:")]
    assert len(layers) == (0 if kind == "text" else 3)
    for name in layers:
        assert cells[name] != cells[f"initial_{name}"]
    assert ("calibration_error" in cells) is (kind == "images")


def test_arms_share_all_but_what_they_are(tmp_path):
    runs = runs_of("images", [], tmp_path)
    assert "reweight/attention=multimax" in runs.command(Arm("multimax", 0.1), 7)
    assert {"model.attn_scale=true", "reweight=softmax"} <= set(runs.command(Arm("attn_scale", 0.1), 7))
    assert {"optimizer.learning_rate=0.1", "seed=7"} <= set(runs.command(Arm("softmax", 0.1), 7))


OWN = """
from multimax import reweight

@reweight.register("scaled_for_a_plan", positive=True)
def scaled(scores, mask=None, *, scale=2.0):
    return reweight.softmax(scores * scale, mask=mask)
"""


def test_a_function_a_model_and_data_of_one_s_own_are_run(root, tmp_path, monkeypatch):
    (tmp_path / "function_for_a_plan.py").write_text(OWN)
    for folder in (tmp_path, root / "examples" / "own"):
        monkeypatch.syspath_prepend(folder)
    own = {"plugins": ["function_for_a_plan"], "config_dir": str(root / "examples" / "own" / "conf")}
    runs = Trainings(["data=stripes", "model=pooled", *STEPS], {}, [], tmp_path / "unfinished", **own)
    cells = runs.run(Arm("scaled_for_a_plan", 0.01), 1000)
    assert 0 <= float(cells["top1"]) <= 100
    assert unpacked(cells["examples:top1"]).mean() == pytest.approx(float(cells["top1"]), rel=1e-3)
