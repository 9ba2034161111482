"""The tables in the repository are what the recorded runs and the claims give."""

import json

from multimax.suite.report import outputs
from multimax.suite.report.outputs import Output, save
from multimax.suite.report.results import all_tables


def test_making_the_tables_again_changes_nothing(root):
    results = root / "results"
    made = set()
    for output in all_tables(results):
        path = results / f"{output.name}.json"
        kept = json.loads(path.read_text())
        assert kept.pop("revision")
        assert kept == output.sidecar(results), f"{path} is out of date: make results"
        for suffix, content in output.files.items():
            file = results / f"{output.name}{suffix}"
            assert file.read_bytes() == content, f"{file} is out of date: make results"
            made.add(file)
        made.add(path)
    assert made == set((results / "tables").iterdir()), "make results leaves out, or does not know, some table"


def test_what_comes_out_as_it_was_keeps_its_revision(tmp_path, monkeypatch):
    source = tmp_path / "claims.yaml"
    source.write_text("claims")
    output = Output("tables/t", {".csv": b"1", ".md": b"2"}, sources=[source])

    def saved_at(revision):
        monkeypatch.setattr(outputs, "revision", lambda: revision)
        assert save(output, tmp_path) == [tmp_path / "tables" / "t.csv", tmp_path / "tables" / "t.md"]
        return json.loads((tmp_path / "tables" / "t.json").read_text())

    first = saved_at("one")
    assert first["revision"] == "one"
    assert saved_at("two") == first
    (tmp_path / "tables" / "t.md").write_text("typed by hand")
    assert saved_at("three")["revision"] == "three"
    assert (tmp_path / "tables" / "t.md").read_text() == "2"
    source.write_text("other claims")
    assert saved_at("four")["revision"] == "four"
