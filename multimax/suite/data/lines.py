"""How all loaders read lines of raw text: what is changed, refused and counted."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator

from multimax.suite.data.left_out import LeftOut
from multimax.suite.errors import UserError

# Control characters, carriage returns within a line, soft hyphen, zero-width space, word joiner, byte order mark, and
# the replacement character; but not joiners and direction marks, which some scripts need.
INVISIBLE = re.compile("[\x01-\x08\r\x0e-\x1b\x7f-\x84\x86-\x9f\u00ad\u200b\u2060-\u2064\ufeff\ufff9-\ufffd]")


def decoded(lines: Iterable[bytes], name: str) -> Iterator[str]:
    """Decode UTF-8 lines and drop the ``\\n`` at their ends. Raises UserError, which calls the text ``name``."""
    for number, line in enumerate(lines, 1):
        try:
            # Some editors begin with a byte order mark, which is not part of the first word.
            yield line.decode("utf-8-sig" if number == 1 else "utf-8").removesuffix("\n")
        except UnicodeDecodeError as error:
            what = "UTF-16" if line.startswith((b"\xff\xfe", b"\xfe\xff")) else error.reason
            raise UserError(f"{name}:{number} is not UTF-8 ({what}): convert it, for instance with iconv") from None


class LineReader:
    """Reads the lines of one text and counts what it finds in them."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.lines = 0
        self.null_rows = 0
        self.reformed = 0
        self.invisible: Counter[str] = Counter()
        self.first: dict[str, str] = {}  # where each kind was first met

    def read(self, lines: Iterable[str | None], unit: str = "", before: int = 0) -> Iterator[str]:
        """Lines without their ends, in Unicode form NFC; ``None`` gives no line.

        Args:
            lines: without ``\\n`` at their ends, or rows of a table, which may hold several lines.
            unit: "row " if messages count the rows of a table.
            before: how many come before the first of ``lines``.

        Raises:
            UserError: a null character, or lines that end in a carriage return alone.
        """
        for number, row in enumerate(lines, before + 1):
            where = f"{self.name}:{unit}{number}"
            if row is None:
                self.null_rows += 1
                self.first.setdefault("null", where)
                continue
            for line in row.split("\n"):
                self.lines += 1
                yield self.clean(line, where)
        if self.lines == 1 and any(kind.startswith("U+000D") for kind in self.invisible):
            raise UserError(f"{self.name} ends its lines with carriage returns, as old Macs did: convert them to \\n")

    def clean(self, line: str, where: str) -> str:
        """One line, which may still end in a carriage return."""
        line = line.removesuffix("\r")
        if "\0" in line:
            raise UserError(f"{where} holds a null character: if this is UTF-16, convert it, for instance with iconv")
        if not unicodedata.is_normalized("NFC", line):
            line = unicodedata.normalize("NFC", line)
            self.reformed += 1
            self.first.setdefault("form", where)
        if found := INVISIBLE.search(line):
            self.invisible[f"U+{ord(found[0]):04X} {unicodedata.name(found[0], 'control')}"] += 1
            self.first.setdefault("invisible", where)
        return line

    def left_out(self) -> list[LeftOut]:
        """What has been found so far. Lines only changed or noted do not count towards a limit."""
        lines, first = f"lines of {self.name}", self.first.get
        null = {"null": self.null_rows}
        form = {"they were in another": self.reformed}
        return [
            LeftOut(f"rows of {self.name}", self.lines + self.null_rows, null, first=first("null", "")),
            LeftOut(lines, self.lines, form, "are brought into Unicode's form NFC", first("form", ""), limited=False),
            LeftOut(
                lines,
                self.lines,
                dict(self.invisible),
                "have invisible characters in their words",
                first("invisible", ""),
                limited=False,
            ),
        ]
