"""A synthetic corpus: German and English sentences generated together by a small grammar.

It has what makes German hard to translate: articles and adjectives that agree in gender, number and case, verbs at the
end of subordinate clauses, separable prefixes, objects before subjects, verbs with the dative, the perfect with haben
or sein. An object comes first only if its form shows that it is one, so that each source has one translation.
"""

from collections.abc import Sequence
from itertools import islice
from random import Random
from typing import NamedTuple, TypeVar

T = TypeVar("T")

LANGUAGES = ("de", "en")
SIZES = {"train": 19_000, "valid": 500, "test": 500}

NOMINATIVE, ACCUSATIVE, DATIVE = range(3)

# By gender (p: plural, any gender), the articles and the endings of adjectives after them, for the three cases.
DEFINITE = {
    "m": ("der den dem", "e en en"),
    "f": ("die die der", "e e en"),
    "n": ("das das dem", "e e en"),
    "p": ("die die den", "en en en"),
}
INDEFINITE = {
    "m": ("ein einen einem", "er en en"),
    "f": ("eine eine einer", "e e en"),
    "n": ("ein ein einem", "es es en"),
}
ADJECTIVES = [("alt", "old"), ("klein", "small"), ("groß", "big"), ("schön", "beautiful"), ("neu", "new")]


class Noun(NamedTuple):
    gender: str
    singular: str
    plural: str
    english: str
    english_plural: str


LIVING = [
    Noun("m", "Mann", "Männer", "man", "men"),
    Noun("f", "Frau", "Frauen", "woman", "women"),
    Noun("n", "Kind", "Kinder", "child", "children"),
    Noun("m", "Lehrer", "Lehrer", "teacher", "teachers"),
    Noun("f", "Ärztin", "Ärztinnen", "doctor", "doctors"),
    Noun("n", "Mädchen", "Mädchen", "girl", "girls"),
    Noun("m", "Hund", "Hunde", "dog", "dogs"),
    Noun("f", "Katze", "Katzen", "cat", "cats"),
    Noun("n", "Pferd", "Pferde", "horse", "horses"),
]
THINGS = [
    Noun("m", "Küchentisch", "Küchentische", "kitchen table", "kitchen tables"),
    Noun("m", "Stuhl", "Stühle", "chair", "chairs"),
    Noun("f", "Tür", "Türen", "door", "doors"),
    Noun("f", "Lampe", "Lampen", "lamp", "lamps"),
    Noun("n", "Fenster", "Fenster", "window", "windows"),
    Noun("n", "Schulbuch", "Schulbücher", "school book", "school books"),
]


class Verb(NamedTuple):
    """German present singular, infinitive, participle without its separable prefix; English base, present, past."""

    german: str
    english: str
    prefix: str = ""
    particle: str = ""
    case: int = NOMINATIVE  # of its object; nominative: it takes no object
    sein: bool = False  # whether the perfect is formed with sein instead of haben


VERBS = [
    Verb("schläft schlafen geschlafen", "sleep sleeps slept"),
    Verb("schläft schlafen geschlafen", "fall falls fell", "ein", "asleep", sein=True),
    Verb("kommt kommen gekommen", "arrive arrives arrived", "an", sein=True),
    Verb("läuft laufen gelaufen", "run runs ran", "weg", "away", sein=True),
    Verb("sieht sehen gesehen", "see sees saw", case=ACCUSATIVE),
    Verb("sucht suchen gesucht", "look looks looked", "", "for", ACCUSATIVE),
    Verb("findet finden gefunden", "find finds found", case=ACCUSATIVE),
    Verb("schaut schauen geschaut", "look looks looked", "an", "at", ACCUSATIVE),
    Verb("holt holen geholt", "pick picks picked", "ab", "up", ACCUSATIVE),
    Verb("hilft helfen geholfen", "help helps helped", case=DATIVE),
    Verb("folgt folgen gefolgt", "follow follows followed", case=DATIVE, sein=True),
    Verb("hört hören gehört", "listen listens listened", "zu", "to", DATIVE),
]


class NounPhrase(NamedTuple):
    noun: Noun
    plural: bool = False
    definite: bool = True
    adjective: tuple[str, str] | None = None

    def german(self, case: int) -> str:
        forms = (DEFINITE if self.definite else INDEFINITE)["p" if self.plural else self.noun.gender]
        article, ending = (form.split()[case] for form in forms)
        noun = self.noun.plural if self.plural else self.noun.singular
        if self.plural and case == DATIVE and not noun.endswith("n"):
            noun += "n"
        return join(article, self.adjective[0] + ending if self.adjective else "", noun)

    def english(self) -> str:
        noun = self.noun.english_plural if self.plural else self.noun.english
        words = join(self.adjective[1] if self.adjective else "", noun)
        return join("the" if self.definite else "an" if words[0] in "aeiou" else "a", words)


class Clause(NamedTuple):
    """A subject, a verb in the present or the perfect, and its object, in both languages' word orders."""

    subject: NounPhrase
    verb: Verb
    perfect: bool = False
    object: NounPhrase | None = None

    def german(self, order: str) -> str:
        """``order`` is what comes first (subject, object or verb), or final, with the verb at the end."""
        singular, infinitive, participle = self.verb.german.split()
        finite, end = infinitive if self.subject.plural else singular, self.verb.prefix
        if self.perfect:
            have = ("ist", "sind") if self.verb.sein else ("hat", "haben")
            finite, end = have[self.subject.plural], end + participle
        subject, found = self.subject.german(NOMINATIVE), self.object.german(self.verb.case) if self.object else ""
        return {
            "subject": join(subject, finite, found, end),
            "object": join(found, finite, subject, end),
            "verb": join(finite, subject, found, end),
            "final": join(subject, found, join(end, finite) if self.perfect else end + finite),
        }[order]

    def english(self) -> str:
        base, present, past = self.verb.english.split()
        verb = past if self.perfect else base if self.subject.plural else present
        return join(self.subject.english(), verb, self.verb.particle, self.object.english() if self.object else "")

    def unambiguous(self) -> bool:
        """Whether the object's form shows that it is the object, wherever it stands."""
        return self.object is not None and self.object.german(self.verb.case) != self.object.german(NOMINATIVE)


def join(*words: str) -> str:
    return " ".join(word for word in words if word)


class Grammar:
    """Draws pairs of sentences."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed).random

    def pick(self, choices: Sequence[T]) -> T:
        return choices[int(self.random() * len(choices))]  # random.choice may change between Python versions

    def noun_phrase(self, nouns: Sequence[Noun]) -> NounPhrase:
        plural = self.random() < 0.3
        adjective = self.pick(ADJECTIVES) if self.random() < 0.4 else None
        return NounPhrase(self.pick(nouns), plural, plural or self.random() < 0.6, adjective)

    def clause(self) -> Clause:
        verb, perfect, subject = self.pick(VERBS), self.random() < 0.5, self.noun_phrase(LIVING)
        objects = {NOMINATIVE: [], ACCUSATIVE: [*LIVING, *THINGS], DATIVE: LIVING}[verb.case]
        return Clause(subject, verb, perfect, self.noun_phrase(objects) if objects else None)

    def sentence(self) -> tuple[str, str]:
        """A statement, or a main and a subordinate clause, in German and English."""
        clause, other, kind = self.clause(), self.clause(), self.random()
        weil, because = self.pick([("weil", "because"), ("obwohl", "although")])
        if kind < 0.5:
            order = self.pick(["subject", "object"]) if clause.unambiguous() else "subject"
            german, english = clause.german(order), clause.english()
        elif kind < 0.75:
            german = f"{clause.german('subject')}, {weil} {other.german('final')}"
            english = f"{clause.english()} {because} {other.english()}"
        else:
            german = f"{weil} {other.german('final')}, {clause.german('verb')}"
            english = f"{because} {other.english()}, {clause.english()}"
        return f"{german[0].upper()}{german[1:]}.", f"{english[0].upper()}{english[1:]}."


def corpus(seed: int = 0) -> dict[str, tuple[list[str], list[str]]]:
    """German and English lines of ``train``, ``valid`` and ``test``; no sentence occurs twice in either language."""
    grammar, used = Grammar(seed), set()
    pairs: dict[str, str] = {}
    while len(pairs) < sum(SIZES.values()):
        german, english = grammar.sentence()
        if german not in pairs and english not in used:
            pairs[german] = english
            used.add(english)
    german_lines, english_lines = iter(pairs), iter(pairs.values())
    return {split: ([*islice(german_lines, size)], [*islice(english_lines, size)]) for split, size in SIZES.items()}
