"""IWSLT14 German-English (Cettolo et al., 2014) from its organisers' archive, or other text prepared the same way.

``scripts/prepare_iwslt14.py`` runs this. It takes the same lines as fairseq's ``prepare-iwslt14.sh``. Only the
tokeniser differs: sacremoses is a port of Moses', and where it splits a line differently, a training pair can cross the
limits on length and ratio. So the sizes are compared with the published ones.
"""

import re
import shutil
import tarfile
import tempfile
import urllib.request
import zlib
from dataclasses import asdict
from pathlib import Path
from textwrap import shorten
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from multimax.suite.data.aligned_files import beside_text, find_text
from multimax.suite.data.left_out import checked
from multimax.suite.data.preparation import DESCRIPTION, Recipe, prepare
from multimax.suite.data.text import StringSource, TextSource
from multimax.suite.errors import Parser, UserError, one_line_errors, whole
from multimax.suite.options import check_options
from multimax.suite.waiting import waiting

URL = "https://dl.fbaipublicfiles.com/fairseq/data/iwslt14/de-en.tgz"
PUBLISHED = {"train": 160_239, "valid": 7_283, "test": 6_750}  # pairs of German-English
TEST_SETS = ("TED.dev2010", "TEDX.dev2012", "TED.tst2010", "TED.tst2011", "TED.tst2012")
DESCRIBING = re.compile("<url>|<talkid>|<keywords>")  # lines of the training text that are not translations
TAGS = re.compile("</?(?:title|description)>")
SEGMENT = re.compile(r'<seg id="[0-9]*">\s*|\s*</seg>\s*')


def read_archive(path: Path, source: str, target: str) -> dict[str, tuple[TextSource, TextSource]]:
    """The training and test text in a language pair's archive. Nothing is unpacked to disk.

    Raises:
        UserError: it is not such an archive, or a file in it is absent or not UTF-8.
    """
    names = ["train.tags.{pair}.{language}", *(f"IWSLT14.{name}.{{pair}}.{{language}}.xml" for name in TEST_SETS)]
    texts: dict[str, str] = {}
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                if member.isfile() and (file := archive.extractfile(member)):
                    name = Path(member.name).name
                    if name.startswith(("train.tags.", "IWSLT14.TED")):
                        texts[name] = file.read().decode()
    except UnicodeDecodeError:
        raise UserError(f"{path}: {name} is not UTF-8") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise UserError(f"{path} is not a whole tar archive: {shorten(str(error), 100)}") from None
    splits: dict[str, list[TextSource]] = {"train": [], "test": []}
    pair = next((p for p in (f"{source}-{target}", f"{target}-{source}") if f"train.tags.{p}.{source}" in texts), None)
    if pair is None:
        there = sorted(name.removeprefix("train.tags.") for name in texts if name.startswith("train.tags."))
        raise UserError(f"{path} has no training text of {source}-{target}: there is {', '.join(there) or 'none'}")
    for language in (source, target):
        wanted = [name.format(pair=pair, language=language) for name in names]
        if missing := [name for name in wanted if name not in texts]:
            raise UserError(f"{path} has no {' and no '.join(missing)}")
        train, *tests = (texts[name].removesuffix("\n").split("\n") for name in wanted)
        lines = [TAGS.sub("", line) for line in train if not DESCRIBING.search(line)]
        splits["train"].append(StringSource("\n".join(lines), f"{path}: {wanted[0]}"))
        segments = [SEGMENT.sub("", line).replace("’", "'") for test in tests for line in test if "<seg id" in line]
        splits["test"].append(StringSource("\n".join(segments), f"{path}: test sets in {language}"))
    return {split: (sides[0], sides[1]) for split, sides in splits.items()}


def download(url: str, path: Path) -> None:
    print(f"downloading {url}", flush=True)
    try:
        with waiting(url), urllib.request.urlopen(url, timeout=60) as response, path.open("wb") as file:
            shutil.copyfileobj(response, file)
    except (OSError, ValueError) as error:
        raise UserError(f"{url} cannot be downloaded ({error}): get the archive and name it with --archive") from None


def report(description: dict[str, Any], published: dict[str, int]) -> None:
    """Print the sizes, and how they differ from the published ones."""
    for split, sizes in description["splits"].items():
        line = f"{split}: {sizes['pairs']:,} pairs"
        if dropped := sizes.get("dropped"):
            line += f" (left out: {', '.join(f'{count:,} {reason}' for reason, count in dropped.items())})"
        if split in published:
            difference = sizes["pairs"] - published[split]
            line += f"; published: {published[split]:,}" + (f", {difference:+,} here" if difference else ", the same")
        print(line)


def read_recipe(given: list[str]) -> Recipe:
    """The recipe given as KEY=VALUE. Raises UserError for a key or value that it does not take."""
    keys = asdict(Recipe(validation_every=23))
    try:
        recipe = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Recipe), keys, OmegaConf.from_dotlist(given)))
    except OmegaConfBaseException as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{' '.join(given)}: {reason}; there are {', '.join(keys)}") from None
    assert isinstance(recipe, Recipe)
    check_options(recipe)
    recipe.check_languages()
    return recipe


@one_line_errors
def main() -> None:
    parser = Parser(
        description="Prepare IWSLT14 German-English, or other line-aligned text, for task=mt and for fairseq-train."
    )
    parser.add_argument("folder", type=Path, help="folder to make; one that this script made is replaced")
    parser.add_argument("recipe", nargs="*", metavar="KEY=VALUE", help="data.KEY of task=mt, such as bpe_merges=8000")
    parser.add_argument("--archive", type=Path, help="de-en.tgz of IWSLT14; downloaded if not given")
    parser.add_argument("--url", default=URL, help="where to download it from (default: %(default)s)")
    parser.add_argument("--text", type=Path, metavar="FOLDER", help="line-aligned text instead, as task=mt takes it")
    parser.add_argument(
        "--processes", type=whole(1, 256), metavar="N", default=2, help="that tokenise (default: %(default)s)"
    )
    arguments = parser.parse_intermixed_args()
    folder: Path = arguments.folder.expanduser()
    if folder.exists() and not (folder / DESCRIPTION).exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is there and was not made by this script: name another folder")
    recipe = read_recipe(arguments.recipe)
    if arguments.text:
        texts = find_text(arguments.text, *recipe.languages)
        for found in checked([beside_text(arguments.text, texts, *recipe.languages)], 1):
            print(found)
    else:
        with tempfile.TemporaryDirectory() as temporary:
            archive = arguments.archive or Path(temporary) / "archive.tgz"
            if arguments.archive is None:
                download(arguments.url, archive)
            texts = read_archive(archive, *recipe.languages)
    origin = {
        "from": str(arguments.text or arguments.archive or arguments.url),
        "text": {split: [side.fingerprint() for side in sides] for split, sides in texts.items()},
    }
    folder.parent.mkdir(parents=True, exist_ok=True)
    description = prepare(texts, recipe, folder, origin, arguments.processes)
    report(description, {} if arguments.text or set(recipe.languages) != {"de", "en"} else PUBLISHED)
    print(f"wrote {folder}: train with task=mt data.root={folder}")
