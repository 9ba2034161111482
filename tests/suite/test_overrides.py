"""KEY=VALUE as people type it.

What Hydra's grammar cannot read is taken as text, or the error says what to type.
"""

import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from multimax.suite.composition import compose_configuration, readable_overrides, typed
from multimax.suite.errors import UserError, one_line_errors
from multimax.suite.overrides import merge, parse, quoted, readable

NAMES = [
    *("datä", "year=2024", "a,b", "set (1)", "it's", "a b", 'say "hi"', "日本語", "[x", "{a}", "a:b", "(", "#1", "a;b"),
    *(
        "2024_01",
        "1e3",
        "0x10",
        "007",
        "true",
        "yes",
        "nan",
        "~x",
        "~/x",
        "back\\slash",
        "end\\",
        "-1",
        "range(1,3)",
        "é",
    ),
]


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_may_have_any_name(name):
    config = typed(compose_configuration(["task=lm", f"data.root=/data/{name}/x", f"run_dir={name}"]))
    assert (config.data.root, config.run_dir) == (f"/data/{name}/x", name)


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"])))
def test_quoting_keeps_any_text(text):
    parsed = parse(quoted("data.root", text))
    assert parsed is not None
    assert parsed.value() == text
    assert shlex.split(shlex.quote(quoted("data.root", text))) == [quoted("data.root", text)]


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"])), st.sampled_from(["key", "data.root"]), st.booleans())
def test_what_is_not_read_comes_with_words_that_are(text, key, sweep):
    """Whatever follows the =, Hydra can read the result, or else what the error says to type."""
    override = f"{key}={text}"
    try:
        result = readable(override, {"data.root"}, sweep)
    except UserError as error:
        (result,) = shlex.split(str(error).split("for the shell: ")[1])
        assert parse(result).value() == text
    assert parse(result) is not None
    if key == "data.root" and not (sweep and "," in text) and result != override:
        assert parse(result).value() == text


def test_a_sweep_stays_one():
    assert readable_overrides(["seed=0,1", "data.root=a,b", "model.name=x"], sweep=True) == [
        *("seed=0,1", "data.root=a,b", "model.name=x")
    ]
    with pytest.raises(UserError, match="takes -m"):
        readable_overrides(["seed=0,1"])


@pytest.mark.parametrize("word", ["seed", "=3", "a b=1", "ä=1", "~", "a[0]=1", "--x=1"])
def test_what_is_no_key_and_value_is_said_to_be_none(word):
    with pytest.raises(UserError, match="not KEY=VALUE"):
        readable_overrides([word])


MISTAKES = {
    "data.root=": "as where a variable of the shell is not set; data.root=null stands for no value",
    "experiment=": "as where a variable of the shell is not set",
    "experiment=null": "~experiment leaves it out",
    "~data": "no run is without it; data=NAME",
    "task=lm,mt": "takes -m",
    "+seed=1": "leave out the +",
    "+experiment=imagenette_cpu": "leave out the +",
    "++experiment=imagenette_cpu": "leave out the +",
    "~data.root": "data.root=null",
    "reweight.attention.name=softmax": "reweight/attention=NAME",
    "data=wikitext2": "data=wikitext2: task=deit needs data.num_classes; is the file for another task",
    "task=lm recipe=mt_demo": "recipe=mt_demo: task=lm has no model.",
    "task=lm model=deit_small": "there is no recipe/lm/demo_deit_small.yaml; task=lm has transformer_lm",
    "plugins=[./mine.py]": "my_functions for my_functions.py",
    "data.name=../x": "may not have a / in it",
}


@pytest.mark.parametrize("words", MISTAKES)
def test_a_mistake_says_what_to_type(words):
    with pytest.raises(UserError) as caught:
        typed(compose_configuration(words.split()), overrides=words.split())
    assert MISTAKES[words] in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_choice_that_a_run_was_made_with_stays():
    with pytest.raises(UserError, match=r"logger=wandb: .* what can be set is logger.name, logger.mode"):
        merge(OmegaConf.create({"logger": {"name": "none", "mode": "auto"}}), ["logger=wandb"])


@pytest.mark.parametrize("value", ["${x}", "${x", "${no.such:1}", "${oc.env:NOT_SET_ANYWHERE}", "???"])
def test_a_value_that_cannot_be_had_is_one_line_wherever_it_is_read(value, capsys):
    composed = OmegaConf.create({"imports": ""})

    @one_line_errors
    def command() -> None:
        OmegaConf.update(composed, "imports", value)
        print(composed.imports)

    with pytest.raises(SystemExit) as ended:
        command()
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: imports: ")
