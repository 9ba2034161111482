import shutil
import subprocess

import pytest

from multimax.suite.engine import provenance


@pytest.mark.parametrize("tracked", [True, False])
def test_a_repository_around_an_installed_package_is_not_its_own(tmp_path, monkeypatch, tracked):
    installed = tmp_path / "multimax" / "suite" / "engine" / "provenance.py"
    installed.parent.mkdir(parents=True)
    shutil.copy(provenance.__file__, installed)
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    added = ["add", "."] if tracked else ["status"]
    for words in (["init"], added, [*identity, "commit", "--allow-empty", "-m", "theirs"]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True, capture_output=True)
    monkeypatch.setattr(provenance, "__file__", str(installed))
    assert bool(provenance.revision()) == tracked
