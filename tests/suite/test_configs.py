"""Every shipped configuration composes, fits its schema and passes its checks."""

import re
from collections.abc import Iterator
from dataclasses import asdict, is_dataclass
from functools import reduce
from itertools import product
from types import UnionType
from typing import get_args, get_origin, get_type_hints

import pytest
from omegaconf import OmegaConf

from multimax import reweight
from multimax.suite.composition import CONFIGS, compose_configuration, typed
from multimax.suite.config import LOGGERS, SCALES, flatten, skeleton
from multimax.suite.errors import UserError
from multimax.suite.identity import run_name
from multimax.suite.tasks import MODULES, task_module


def names(group: str) -> list[str]:
    return sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))


def compose(*overrides: str):
    return typed(compose_configuration(overrides), overrides=overrides)


def test_every_task_has_a_recipe_at_every_scale():
    assert {f"{task}_{scale}" for task, scale in product(MODULES, SCALES)} == set(names("recipe"))


def test_every_logger_is_a_choice():
    assert {compose(f"logger={name}").logger.name for name in LOGGERS} == {*LOGGERS}


@pytest.mark.parametrize("task", MODULES)
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("function", [*reweight.available(), *names("reweight")])
def test_every_function_at_every_task_and_scale(task, scale, function):
    config = compose(f"task={task}", f"scale={scale}", f"reweight={function}")
    assert (config.task, config.scale) == (task, scale)
    assert config.reweight.output["name"] in (config.reweight.attention["name"], "softmax")


@pytest.mark.parametrize(
    ("group", "name"),
    [(g, n) for g in ("model", "data", "experiment") for n in names(g)],
)
def test_every_other_file(group, name):
    task = next(iter(MODULES))
    if group == "experiment":
        assert compose(f"experiment={name}")
    else:
        assert compose_configuration([f"task={task}", f"{group}={name}"])[group]


def test_every_file_says_what_it_is():
    for path in CONFIGS.rglob("*.yaml"):
        assert "#" in path.read_text(), f"{path} has no comment"


def test_one_site_can_be_taken_back():
    config = compose("reweight=multimax", "reweight/output=softmax", "reweight.attention.order=1")
    assert config.reweight.attention["order"] == 1
    assert config.reweight.output["name"] == "softmax"
    assert "order" not in config.reweight.output


def test_the_paper_recipe_is_deits():
    config = compose("task=deit", "scale=paper")
    assert (config.training.batch_size, config.training.epochs, config.schedule.warmup_epochs) == (1024, 300, 5)
    assert config.optimizer.learning_rate == pytest.approx(5e-4 * 1024 / 512)
    assert (config.schedule.final_rate, config.schedule.warmup_rate) == (1e-5, 1e-6)
    assert (config.model.name, config.model.drop_path, config.model.class_token) == (
        "deit_small_patch16_224",
        0.1,
        False,
    )
    assert (config.data.auto_augment, config.data.repeated_augmentation) == ("rand-m9-mstd0.5-inc1", 3)


def test_a_runs_name_follows_from_what_determines_its_numbers():
    name = run_name(compose())
    assert (
        run_name(compose("run_dir=elsewhere", "runs_dir=there", "data.num_workers=3", "training.log_every=7")) == name
    )
    others = {run_name(compose(override)) for override in ("seed=1", "reweight=softmax", "training.epochs=3")}
    assert len({name, *others}) == 4


MISTAKES = {
    "training.cuda_graphs=true": "training.compile=true",
    "training.precision=fp12": "choose one of fp32, bf16, fp16",
    "training.batch_size=many": "training.batch_size",
    "training.batch_size=0": "below 1",
    "seed=-1": "seed=-1 is below 0",
    "data.repeated_augmentation=0": "data.repeated_augmentation=0 is below 1",
    "training.ema_decay=5": r"not in \[0, 1\]",
    "optimizer.clip_norm=-1": "below 0",
    "optimizer.beta1=1.5": "beta1",
    "data.mixup=-1": "below 0",
    "data.random_erasing=7": "random_erasing",
    "data.crop_pct=0": "crop_pct",
    "reweight.attention.shared_ranges=no": "reweight.attention: option 'shared_ranges'.* must be bool",
    "training.steps=5": "set one of training.epochs and training.steps",
    "training.label_smoothing=1.5": "label_smoothing",
    "training.evaluate_ema=true": "needs training.ema_decay",
    "schedule.name=cosin": "choose one of cosine",
    "schedule.warmup_steps=5": "at most one of",
    "+training.epoch=3": r"training.epoch: .*training.epochs",
    "+sede=3": r"sede: .*seed",
    "data.repeated_augmentation=3 data.mixup=0.8": "mix_group=None does not divide training.batch_size=128",
    "data.repeated_augmentation=3 data.mixup=0.8 data.mix_group=64": "into 3 groups or more",
    "data.repeated_augmentation=3 data.cutmix=1 data.mix_group=24": "into 3 groups or more",
    "model.pool=token": "class_token=true",
    "model.name=deit_smal": "timm has no such model",
    "model.patch_size=3": "not a multiple",
    "model.num_heads=5": "num_heads",
    "model.depth=-1": "model.depth=-1 is below 1",
    "model.patch_size=0": "model.patch_size=0 is below 1",
    "training.batch_size=99999999": "training.batch_size=99999999 is above 16777216",
    "data.mean=[nan]": r"data.mean=\[nan\] is not finite",
    "training.epochs=inf": "training.epochs=inf is not finite",
    f"seed={2**64}": f"is above {2**63 - 1}",
    "reweight.attention.order=4": "order",
    "reweight.output=softmax": "reweight/output=NAME",
}


@pytest.mark.parametrize("overrides", MISTAKES)
def test_a_mistake_is_one_line_that_names_it(overrides):
    with pytest.raises(UserError, match=MISTAKES[overrides]) as caught:
        compose(*overrides.split())
    assert "\n" not in str(caught.value)


def test_processes_that_do_not_divide_a_batch_share_it_unless_its_images_are_mixed_in_pairs():
    config = compose("task=lm", "scale=paper")
    config.check(8)
    with pytest.raises(UserError, match=r"batch_size=60 is less than the 61 processes"):
        config.check(61)
    config = compose("task=deit", "scale=paper")
    config.check(4)
    with pytest.raises(UserError, match=r"batch_size=1024 over 3 .*: start 2 or 4, or set .*batch_size=1020"):
        config.check(3)


UNREAD = [
    ("data.root=/x", "data.source=files"),
    ("data.hub=a/b", "data.source=files"),
    ("data.mix_group=4", "data.mixup or data.cutmix"),
    ("data=imagenette data.hub=a/b data.root=/x", "data.root=null"),
    ("data=imagenette model=deit_small data.color_jitter=0.5", "data.auto_augment=null"),
    ("schedule.name=constant schedule.final_rate=0.1", "schedule.name=cosine"),
    ("schedule.warmup_epochs=null schedule.warmup_rate=0.1", "schedule.warmup_steps or schedule.warmup_epochs"),
    ("task=lm data.root=/x", "data.source=files"),
    ("task=lm data.hub=a/b", "data.source=files"),
    ("task=lm data=wikitext2 data.hub_config=b data.root=/x", "data.root=null"),
    ("task=lm data.vocabulary=v.json data.max_tokens=9", "data.vocabulary=null"),
    *(
        (f"task=lm model=transformer_lm model.{key}", "model=transformer_xl")
        for key in (
            "clamp_length=9",
            "same_length=true",
            "eval_segment_length=9",
            "eval_memory_length=9",
            "eval_clamp_length=9",
            "eval_same_length=true",
        )
    ),
    ("task=mt data.root=/x", "data.source=files"),
    ("task=mt data.eval_split=test decoding.validation_sentences=9", "data.eval_split=validation"),
]


@pytest.mark.parametrize(("overrides", "reader"), UNREAD)
def test_a_key_that_is_given_and_that_nothing_reads_is_refused(overrides, reader):
    with pytest.raises(UserError, match=f"only with {reader} is it read") as caught:
        compose(*overrides.split())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "overrides", ["data.root=null", "schedule.name=constant", "task=lm data=wikitext2 data.root=/x"]
)
def test_a_default_or_a_recipes_value_that_nothing_reads_is_none(overrides):
    assert compose(*overrides.split())


@pytest.mark.parametrize("task", MODULES)
def test_what_is_read_sometimes_are_keys(task):
    keys = dict(flatten(skeleton(task_module(task).Config)))
    assert {key for _, _, sometimes in compose(f"task={task}").readers() for key in sometimes} <= keys.keys()


def numbers(schema: type, prefix: str = "") -> Iterator[str]:
    """Dotted keys of a configuration whose values are, or may be, numbers."""
    for name, kind in get_type_hints(schema).items():
        if is_dataclass(kind):
            yield from numbers(kind, f"{prefix}{name}.")
        elif {int, float} & {kind, *(get_args(kind) if get_origin(kind) is UnionType else ())}:
            yield prefix + name


# Users do not set numerics.
MAY_BE_NEGATIVE = {"numerics", "decoding.length_penalty", "decoding.max_length_extra"}


@pytest.mark.parametrize("task", MODULES)
@pytest.mark.parametrize("wrong", [-1, 2**64, float("nan"), float("inf"), float("-inf")])
def test_every_number_has_a_range_and_is_finite(task, wrong):
    """A wrong number is refused in a line with its key and value, before anything is opened."""
    config = compose(f"task={task}")
    said = {}
    tried = set(numbers(type(config))) - (MAY_BE_NEGATIVE if wrong == -1 else set())
    for key in tried:
        *groups, name = key.split(".")
        owner = reduce(getattr, groups, config)
        before = getattr(owner, name)
        setattr(owner, name, wrong)
        try:
            config.check(1)
        except UserError as error:
            said[key] = str(error)
        setattr(owner, name, before)
    assert not {key: line for key, line in said.items() if not line.startswith(f"{key}={wrong} is ")}
    assert said.keys() == tried


def test_a_loss_for_hard_targets_refuses_mixed_ones():
    @reweight.register("hard_only")
    class HardOnly(reweight.Reweighting):
        has_loss = True
        soft_targets = False

    with pytest.raises(UserError, match="takes hard targets only"):
        compose("reweight/output=hard_only")
    assert compose("reweight/output=hard_only", "training.label_smoothing=0")
    with pytest.raises(UserError, match="mixup"):
        compose("reweight/output=hard_only", "training.label_smoothing=0", "data.mixup=0.8")


def test_a_function_without_a_loss_is_refused_at_the_output():
    reweight.register("no_loss")(lambda scores, mask=None: scores.relu())
    assert compose("reweight=no_loss").reweight.output["name"] == "softmax"
    with pytest.raises(UserError, match="has no loss"):
        compose("reweight/output=no_loss")


def test_an_option_that_the_code_gains_later_is_not_another_run():
    from multimax.suite.identity import identity
    from multimax.suite.tasks.image_classification import Config

    config = asdict(compose())
    before = identity(config, Config)
    del config["training"]["checkpoint_every"], config["data"]["hub"], config["reweight"]["attention"]["per_head"]
    assert identity(config, Config) == before
    config["reweight"]["attention"]["per_head"] = True
    assert identity(config, Config) != before


@pytest.mark.parametrize("group", ["recipe", "data", "model"])
def test_no_file_repeats_defaults(group):
    """Every value in a recipe or data set differs from the dataclass's default, so the file shows
    what is special. A model's file describes a published model in full, but differs from the
    defaults in something."""
    defaults = {task: dict(flatten(skeleton(task_module(task).Config))) for task in MODULES}
    for path in sorted((CONFIGS / group).rglob("*.yaml")):
        values = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
        assert isinstance(values, dict)
        values.pop("defaults", None)
        ours = dict(flatten(values if group == "recipe" else {group: values}))
        task = min(MODULES, key=lambda task: len(ours.keys() - defaults[task].keys()))
        repeated = {key for key, value in ours.items() if defaults[task].get(key, ...) == value}
        if group == "recipe":  # a recipe may reset a key that a model sets
            repeated -= {f"model.{key}" for file in (CONFIGS / "model").glob("*.yaml") for key in OmegaConf.load(file)}
        assert len(repeated) < len(ours) if group == "model" else not repeated, f"{path}: {repeated}"


@pytest.mark.parametrize(
    ("experiment", "scaled"),
    [
        ("imagenet_deit_s", ["task=deit"]),
        ("wikitext103_transformer_lm", ["task=lm", "model=transformer_lm"]),
        ("wikitext103_transformer_xl", ["task=lm"]),
        ("iwslt14_de_en", ["task=mt"]),
    ],
)
@pytest.mark.parametrize("function", ["softmax", "multimax"])
def test_an_experiment_by_name_is_the_run_of_its_task_at_the_paper_s_scale(experiment, scaled, function):
    named = compose(f"experiment={experiment}", f"reweight={function}")
    plain = compose(*scaled, "scale=paper", f"reweight={function}")
    assert asdict(named) == asdict(plain)


@pytest.mark.parametrize("path", sorted((CONFIGS / "experiment").glob("*.yaml")), ids=lambda path: path.stem)
def test_an_experiment_says_at_its_top_what_to_expect_and_what_it_costs(path, root):
    header = path.read_text().partition("\n\n")[0].partition("\ndefaults:")[0]
    command, expected, cost = re.search(
        r"^# (python train\.py .*?)^# Expected: (.+?)^# Hours and hardware: (.+)",
        header + "\n",
        re.DOTALL | re.MULTILINE,
    ).groups()
    assert f"experiment={path.stem} " in command
    assert cost.strip()
    sources = "".join((root / name).read_text() for name in re.findall(r"results/[\w/]+\.(?:md|yaml)", expected))
    for number in re.findall(r"\d+\.\d+", expected) if sources else ():
        assert re.search(rf"(?<![\d.]){re.escape(number)}(?!\d)", sources), (
            f"{path}: {number} is in none of its sources"
        )
