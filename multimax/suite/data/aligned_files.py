"""Which files in a folder are the line-aligned text of each split, and which others are there."""

import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from multimax.suite.data.hub import VALIDATION
from multimax.suite.data.languages import CODE
from multimax.suite.data.left_out import LeftOut, beside
from multimax.suite.data.text import FileSource, TextSource
from multimax.suite.errors import UserError

VALID = "valid"  # what fairseq calls the validation split's files, as do prepared folders
TEXT = re.compile(rf"(train|{'|'.join(VALIDATION)}|[\w-]*(?:test|tst)[\w-]*)\.({CODE})(\.gz)?")


def name_of_files(split: str) -> str:
    return VALID if split == "validation" else split


def find_text(root: Path, *languages: str) -> dict[str, tuple[TextSource, TextSource]]:
    """The text files of each split that has both languages."""
    found: dict[str, dict[str, Path]] = defaultdict(dict)
    for path in sorted(root.iterdir()):
        if match := TEXT.fullmatch(path.name):
            name, language = VALID if match[1] in VALIDATION else match[1], match[2]
            if language in found[name]:
                raise UserError(
                    f"data.root={root} has {language} of {name} twice: {found[name][language].name}, {path.name}"
                )
            found[name][language] = path
    there = sorted(found["train"])
    if missing := [language for language in languages if language not in there]:
        present = (
            f"there is {', '.join(there)}" if there else f"there is no train.{missing[0]} or train.{missing[0]}.gz"
        )
        raise UserError(f"data.root={root} has no training text in {' and '.join(missing)}: {present}")
    return {
        split: (FileSource(paths[languages[0]]), FileSource(paths[languages[1]]))
        for split, paths in found.items()
        if set(languages) <= paths.keys()
    }


def beside_text(root: Path, texts: Mapping[str, tuple[TextSource, TextSource]], *languages: str) -> LeftOut:
    """What ``find_text`` passes over."""

    def why(path: Path) -> str:
        match = TEXT.fullmatch(path.name)
        if match is None:
            return "of no split that is read"
        return "the other language is absent" if match[2] in languages else "of another language"

    return beside(root, [Path(side.name) for sides in texts.values() for side in sides], why)
