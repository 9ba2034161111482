"""What a language code, BCP 47 or ISO 639 (de, deu, zh-CN, pt_br, sr-Latn), says about the text."""

import logging
import re

from sacremoses.corpus import NonbreakingPrefixes

from multimax.suite.errors import UserError

logger = logging.getLogger(__name__)

CODE = r"[A-Za-z]{2,3}(?:[-_][A-Za-z0-9]{1,8})*"

UNSPACED = frozenset({"zh", "yue", "ja", "th", "lo", "km", "my", "bo", "dz"})
"""Languages written without spaces between words."""

# Three-letter codes of languages that are distinguished here, or whose abbreviations Moses' tokeniser knows.
THREE_LETTERS = """
    zho=zh chi=zh cmn=zh jpn=ja tha=th lao=lo khm=km mya=my bur=my bod=bo tib=bo dzo=dz kor=ko tur=tr aze=az
    cat=ca ces=cs cze=cs deu=de ger=de ell=el gre=el eng=en spa=es fin=fi fra=fr fre=fr gle=ga hun=hu isl=is ice=is
    ita=it lit=lt lav=lv nld=nl dut=nl pol=pl por=pt ron=ro rum=ro rus=ru slk=sk slo=sk slv=sl swe=sv tam=ta
"""
SHORT: dict[str, str] = dict(pair.split("=") for pair in THREE_LETTERS.split())


def check_code(key: str, code: str) -> None:
    """Raise UserError unless ``code`` can name a language."""
    if not re.fullmatch(CODE, code):
        raise UserError(f"{key}={code} is no code of a language, such as de, zh-CN, pt_br or sr-Latn")


def primary(code: str) -> str:
    """The language without script and region, as a two-letter code if it has one: zh for zh-CN, de for deu."""
    language = re.split("[-_]", code)[0].lower()
    return SHORT.get(language, language)


def bleu_tokenizer(code: str) -> str:
    """sacrebleu's tokeniser for a language: its own choice, or characters for other languages without spaces."""
    language = primary(code)
    own = {"zh": "zh", "yue": "zh", "ja": "ja-mecab", "ko": "ko-mecab"}
    return own.get(language, "char" if language in UNSPACED else "13a")


def check_processing(code: str, tokenize: bool, lowercase: bool) -> None:
    """Raise UserError if Moses' tokeniser or lower-casing is wrong for a language; warn if English has to do."""
    language = primary(code)
    if tokenize and language in UNSPACED:
        raise UserError(
            f"data.tokenize=true: Moses' tokeniser finds no words in {code}, which is written without spaces: segment "
            "the text and set data.tokenize=false"
        )
    if tokenize and language not in NonbreakingPrefixes().available_langs.values():
        logger.warning("Moses' tokeniser knows no abbreviations of %s: those of English are used", code)
    if lowercase and language in ("tr", "az"):
        raise UserError(
            f"data.lowercase=true: the lower case of I is another letter in {code}, which BLEU does not know: set "
            "data.lowercase=false"
        )
