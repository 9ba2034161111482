"""A cached listing of a folder equals a fresh one, whatever has changed since."""

import os
import time
from pathlib import Path

import pytest

from multimax.suite.data import image_listing
from multimax.suite.data.image_listing import ImageListing
from multimax.suite.errors import UserError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(image_listing, "SETTLED", 10**7)
    for name in ("cat/1.jpg", "cat/old/2.png", "dog/3.jpg", "dog/notes.txt", "dog/\udcff.jpg"):
        path = tmp_path / "train" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "4.jpg").touch()
    (tmp_path / "train" / "dog" / "link").symlink_to(tmp_path / "elsewhere")
    time.sleep(0.05)
    return tmp_path / "train"


def found(folder: Path, cache: Path) -> tuple:
    listing = ImageListing(folder, cache)
    names = [listing.relative(index) for index in range(len(listing))]
    return names, listing.labels.tolist(), listing.classes, listing.other_files


def refuse(*_: object, **__: object) -> None:
    raise AssertionError("the folder is read again")


def test_a_folder_is_read_once(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    first = found(folder, tmp_path / "cache")
    assert first[:2] == (
        ["cat/1.jpg", "cat/old/2.png", "dog/3.jpg", "dog/\udcff.jpg", "dog/link/4.jpg"],
        [0, 0, 1, 1, 1],
    )
    monkeypatch.setattr(os, "walk", refuse)
    assert found(folder, tmp_path / "cache") == first


CHANGES = {
    "an image more": lambda folder: (folder / "cat" / "0.jpg").touch(),
    "one less": lambda folder: (folder / "cat" / "old" / "2.png").unlink(),
    "another name": lambda folder: (folder / "dog" / "3.jpg").rename(folder / "dog" / "9.jpg"),
    "in another class": lambda folder: (folder / "dog" / "3.jpg").rename(folder / "cat" / "3.jpg"),
    "a class more": lambda folder: [(folder / "emu").mkdir(), (folder / "emu" / "5.jpg").touch()],
    "an image where a link leads": lambda folder: (folder.parent / "elsewhere" / "6.jpg").touch(),
    "a link to elsewhere": lambda folder: [(folder / "dog" / "link").unlink(), (folder / "dog" / "link").mkdir()],
    "another folder of this name": lambda folder: [
        folder.rename(folder.parent / "was"),
        *((folder / name).mkdir(parents=True) for name in ("cat", "dog")),
        *((folder / name).touch() for name in ("cat/1.jpg", "dog/8.jpg")),
    ],
}


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_changes_is_seen_also_with_the_old_times(change: str, folder: Path, tmp_path: Path):
    before = found(folder, tmp_path / "cache")
    times = {path: path.stat() for path in (folder, *folder.rglob("*")) if path.is_dir()}
    CHANGES[change](folder)
    for path, stat in times.items():
        if path.is_dir():
            os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    after = found(folder, tmp_path / "cache")
    assert after == found(folder, tmp_path / "other")
    assert after != before


def test_a_folder_that_has_just_changed_is_read_again(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Its next change might fall on the same clock tick and go unnoticed."""
    monkeypatch.setattr(image_listing, "SETTLED", 10**12)
    found(folder, tmp_path / "cache")
    monkeypatch.setattr(os, "walk", refuse)
    with pytest.raises(AssertionError, match="read again"):
        found(folder, tmp_path / "cache")


@pytest.mark.parametrize("broken", ["names.npy", "about.json"])
def test_a_damaged_or_unwritable_cache_is_done_without(broken: str, folder: Path, tmp_path: Path):
    first = found(folder, tmp_path / "cache")
    (kept,) = (path for path in (tmp_path / "cache" / "listings").iterdir() if path.is_dir())
    (kept / broken).write_bytes(b"{")
    assert found(folder, tmp_path / "cache") == first
    (tmp_path / "file").touch()
    assert found(folder, tmp_path / "file" / "cache") == first


@pytest.mark.parametrize("to", [".", "..", "../..", "../../.."])
def test_a_link_to_a_folder_around_it_is_refused(folder: Path, tmp_path: Path, to: str):
    """Each time the link is followed, its images would be listed once more."""
    (folder / "cat" / "loop").symlink_to(to)
    with pytest.raises(UserError, match="cat/loop is a link to a folder that it lies in"):
        ImageListing(folder, tmp_path / "cache")
