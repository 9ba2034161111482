"""The table of functions in the README says what the registry says."""

import re

from multimax import reweight


def test_the_readme_has_every_function_with_its_zeros_parameters_and_loss(root):
    rows = re.findall(
        r"^\| `(\w+)` \|.*?\| (yes|no) \| (.*?) ?\| (.*?) \| .*\|$", (root / "README.md").read_text(), re.M
    )
    assert sorted(name for name, *_ in rows) == list(reweight.available())
    for name, zeros, parameters, loss in rows:
        traits = reweight.traits(name)
        assert (zeros == "yes", bool(parameters)) == (traits.can_be_zero, traits.has_parameters), name
        assert (loss != "none") == reweight.get(name).has_loss, name
