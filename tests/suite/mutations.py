"""Damage that typos, disks, copying and people do to a command-line word, a file or a folder."""

import json
import math
import os
import random
import shutil
from pathlib import Path

import yaml

JUNK = [
    *(b"", b"\x00" * 64, b"\xff\xfe\x00\xd8", b"{", b"[1, 2", b"null", b"a: [b", b"\n", b"- x\n", b"PAR1"),
    b"\x89PNG\r\n",
]
KEPT = (".json", ".jsonl", ".yaml")
KINDS = [None, True, -1, 0, 1.5, math.nan, math.inf, "", "x", "1", [], [1], ["x"], {}, {"x": 1}, 10**30]


def mangle(word: str, choice: random.Random) -> str:
    """The word with a typing mistake."""
    at = choice.randrange(len(word) + 1)
    before, after = word[:at], word[at:]
    return choice.choice(
        [
            *(
                before + after[1:],
                before + choice.choice("=,.:[]{}()'\"~+-/$ä \n") + after,
                before,
                after,
                word + word,
                "",
            ),
            *(word.upper(), word.replace("=", "=="), f"-{word}", f"--{word}", f"+{word}", f"~{word.split('=')[0]}"),
        ]
    )


def damage(path: Path, choice: random.Random) -> str:
    """Damage a file or folder as disks, copying and people do; returns the kind of damage."""
    what = choice.choice(
        ["delete", "empty", "cut", "flip", "junk", "folder", "loop", "rename", "dangle", "repeat", "pipe", "kind"]
    )
    if what == "kind" and path.suffix not in KEPT:
        what = "cut"
    if path.is_dir():
        if what in ("delete", "folder"):
            shutil.rmtree(path)
            if what == "folder":
                path.mkdir()
        elif what == "rename":
            path.rename(path.with_name(choice.choice(["ä", ".hidden", "a b", "x"])))
        else:
            shutil.rmtree(path)
            path.write_bytes(choice.choice(JUNK))
        return f"{what} the folder"
    content = path.read_bytes()
    if what == "cut":
        path.write_bytes(content[: choice.randrange(len(content) + 1)])
    elif what == "flip" and content:
        at = choice.randrange(len(content))
        path.write_bytes(content[:at] + bytes([content[at] ^ (1 << choice.randrange(8))]) + content[at + 1 :])
    elif what == "repeat":
        path.write_bytes(content + content)
    elif what == "kind":
        path.write_text(of_another_kind(path.read_text(), path.suffix, choice))
    elif what == "rename":
        path.rename(path.with_name(choice.choice(["ä", ".hidden", "a b.txt", "x"])))
    elif what in ("empty", "junk", "flip"):
        path.write_bytes(b"" if what == "empty" else choice.choice(JUNK))
    else:
        path.unlink()
        if what == "folder":
            path.mkdir()
        elif what in ("loop", "dangle"):
            path.symlink_to(path.name if what == "loop" else "nowhere")
        elif what == "pipe":
            os.mkfifo(path)
    return what


def of_another_kind(content: str, suffix: str, choice: random.Random) -> str:
    """The content with one of the values in it replaced by one of another kind, or removed."""
    lines = content.splitlines() if suffix == ".jsonl" else [content]
    at = choice.randrange(len(lines)) if lines else 0
    value = (yaml.safe_load if suffix == ".yaml" else json.loads)(lines[at]) if lines else {}
    within, holders = [value], []
    while within:
        holder = within.pop()
        holders += [(holder, key) for key in (holder if isinstance(holder, dict) else range(len(holder)))]
        values = holder.values() if isinstance(holder, dict) else holder
        within += [item for item in values if isinstance(item, dict | list)]
    if holders and choice.random() < 0.9:
        holder, key = choice.choice(holders)
        if isinstance(holder, dict) and choice.random() < 0.2:
            del holder[key]
        else:
            holder[key] = choice.choice(KINDS)
    else:
        value = choice.choice(KINDS)
    lines[at : at + 1] = [yaml.safe_dump(value) if suffix == ".yaml" else json.dumps(value)]
    return "\n".join(lines) + "\n"
