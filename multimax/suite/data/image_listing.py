"""Which images a folder has: read once, cached, and shared by all processes on a machine.

ImageNet's 1.28 million files take a minute or more to list from a network disk, and a list of Python strings would take
217 MB, which every worker copies as soon as it counts references. Here they are three arrays mapped into memory. A
cached listing is valid until the change time (ctime) of a directory under the folder differs. The ctime changes with
every entry that is added, removed or renamed, and cannot be set back.
"""

import json
import os
import time
from array import array
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np

from multimax.suite.data.cache import whole_folder
from multimax.suite.data.fingerprint import digest
from multimax.suite.errors import UserError
from multimax.suite.files import alone

SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""Suffixes of image files, as in torchvision's ImageFolder, whose order the images also have."""

FORMAT = 1  # of a cached listing
SETTLED = 2 * 10**9  # nanoseconds after which another change of a directory is certain to change its ctime


class ImageListing:
    """The images of a folder with one subfolder per class, in the order of their names.

    Args:
        folder: its subfolders are the classes, with images in them and in folders below them.
        cache: where listings are kept; unused if it cannot be written.

    Raises:
        UserError: a folder cannot be read, there is no class, or a class has no images.
    """

    def __init__(self, folder: Path, cache: Path) -> None:
        self.folder = folder
        kept = cache / "listings" / digest([os.fsencode(folder.resolve()), str(FORMAT).encode()])
        lock = kept.with_name(f"{kept.name}.lock")
        with suppress(OSError):
            lock.parent.mkdir(parents=True, exist_ok=True)
            lock.touch()
        with alone(lock, f"another process, which lists the images of {folder}") as locked:  # one reads it for all
            if not locked or not self._read(kept):
                self._scan()
                if locked:
                    self._keep(kept)

    def __len__(self) -> int:
        return len(self.labels)

    def relative(self, index: int) -> str:
        """The path of an image relative to the folder."""
        start = int(self.ends[index - 1]) if index else 0
        return os.fsdecode(self.names[start : int(self.ends[index])].tobytes())

    def _scan(self) -> None:
        self.looked = time.time_ns()
        self.other_files: Counter[str] = Counter()
        self.directories = {"": os.stat(self.folder).st_ctime_ns}
        outer = (self.folder, *self.folder.parents, *self.folder.resolve().parents)
        self.around = {inode(os.stat(path)) for path in outer}
        entries = sorted(os.scandir(self.folder), key=lambda entry: entry.name)
        self.classes = [entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
        outside = [entry.name for entry in entries if entry.name not in self.classes]
        if not self.classes:
            if any(name.lower().endswith(SUFFIXES) for name in outside):
                raise UserError(f"the images of {self.folder} must be sorted into one folder for each class")
            raise UserError(f"{self.folder} has no folder of a class")
        if outside:
            self.other_files["not in the folder of a class"] = len(outside)
        names, ends, counts = bytearray(), array("q"), []
        for name in self.classes:
            before = len(ends)
            for path in self._images(self.folder / name):
                names += os.fsencode(path)
                ends.append(len(names))
            counts.append(len(ends) - before)
            if not counts[-1]:
                suffixes = ", ".join(SUFFIXES)
                raise UserError(f"{self.folder / name} has no image ({suffixes}): delete it if it is no class")
        self.names, self.ends = np.frombuffer(bytes(names), np.uint8), np.array(ends, np.int64)
        self.labels = np.repeat(np.arange(len(counts), dtype=np.int32), counts)

    def _images(self, folder: Path) -> Iterator[str]:
        def refuse(error: OSError) -> None:
            raise UserError(f"{error.filename} cannot be read: {error.strerror}")

        def walk() -> Iterator[tuple[str, list[str]]]:
            within: dict[Path, tuple[int, int]] = {}
            for place, _, names in os.walk(folder, onerror=refuse, followlinks=True):
                path, found = Path(place), os.stat(place)
                if inode(found) in {*self.around, *(within[above] for above in path.parents if above in within)}:
                    raise UserError(f"{place} is a link to a folder that it lies in, whose images would never end")
                within[path] = inode(found)
                self.directories[os.path.relpath(place, self.folder)] = found.st_ctime_ns
                yield place, names

        for place, names in sorted(walk()):
            here = os.path.relpath(place, self.folder)
            hidden = any(part.startswith(".") for part in Path(place).relative_to(folder).parts)
            for name in sorted(names):
                if hidden or name.startswith("."):
                    self.other_files["hidden"] += 1
                elif name.lower().endswith(SUFFIXES):
                    yield os.path.join(here, name)
                else:
                    suffix = os.path.splitext(name)[1]
                    self.other_files[f"suffix {suffix}" if suffix else "file without a suffix"] += 1

    def _read(self, kept: Path) -> bool:
        """Load the cached listing if it is still valid."""
        try:
            about = json.loads((kept / "about.json").read_bytes())
            for directory, changed in about["directories"].items():
                if os.stat(self.folder / directory).st_ctime_ns != changed:
                    return False
            arrays = [np.load(kept / f"{name}.npy", mmap_mode="r") for name in ("names", "ends", "labels")]
        except (OSError, ValueError, KeyError):
            return False
        self.names, self.ends, self.labels = arrays
        self.classes, self.other_files = about["classes"], Counter(about["other_files"])
        return True

    def _keep(self, kept: Path) -> None:
        if max(self.directories.values()) > self.looked - SETTLED:  # it may have changed while being read
            return
        try:
            with whole_folder(kept) as new:
                for name in ("names", "ends", "labels"):
                    np.save(new / f"{name}.npy", getattr(self, name))
                about = {name: getattr(self, name) for name in ("directories", "classes", "other_files")}
                (new / "about.json").write_text(json.dumps(about))
        except OSError:
            return  # e.g. a full disk: the listing is then made anew each time
        self._read(kept)  # the mapped arrays replace this process's own


def inode(found: os.stat_result) -> tuple[int, int]:
    """What identifies a folder, whatever name it is reached by."""
    return found.st_dev, found.st_ino
