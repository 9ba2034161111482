"""A synthetic corpus: German and English sentences that a small grammar makes together.

It has what makes German hard to translate: articles and adjectives that agree in gender, number, case and determiner,
the verb at the end of subordinate clauses, prefixes that separate, objects before subjects, verbs with the dative, the
perfect with haben or sein, compounds. An object stands first only where form says that it is one, so that a source has
one translation.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

T = TypeVar("T")

LANGUAGES = ("de", "en")
SIZES = {"train": 19_000, "valid": 500, "test": 500}

NOMINATIVE, ACCUSATIVE, DATIVE = range(3)

# Forms by gender (p: plural, of any gender), each for nominative, accusative and dative.
DER = {"m": "der den dem", "f": "die die der", "n": "das das dem", "p": "die die den"}
DIESER = {
    "m": "dieser diesen diesem",
    "f": "diese diese dieser",
    "n": "dieses dieses diesem",
    "p": "diese diese diesen",
}
EIN = {"m": "ein einen einem", "f": "eine eine einer", "n": "ein ein einem"}
WEAK = {"m": "e en en", "f": "e e en", "n": "e e en", "p": "en en en"}  # endings of adjectives behind der and dieser
MIXED = {"m": "er en en", "f": "e e en", "n": "es es en"}  # behind ein
DETERMINERS = {"der": (DER, WEAK), "dieser": (DIESER, WEAK), "ein": (EIN, MIXED)}

ADJECTIVES = [("alt", "old"), ("klein", "small"), ("groß", "big"), ("schön", "beautiful"), ("neu", "new")]


@dataclass(frozen=True)
class Noun:
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
SIMPLE = [
    Noun("m", "Tisch", "Tische", "table", "tables"),
    Noun("m", "Stuhl", "Stühle", "chair", "chairs"),
    Noun("m", "Schrank", "Schränke", "cupboard", "cupboards"),
    Noun("f", "Tür", "Türen", "door", "doors"),
    Noun("f", "Lampe", "Lampen", "lamp", "lamps"),
    Noun("n", "Fenster", "Fenster", "window", "windows"),
    Noun("n", "Buch", "Bücher", "book", "books"),
]
COMPOUNDS = [
    Noun(n.gender, de + n.singular.lower(), de + n.plural.lower(), f"{en} {n.english}", f"{en} {n.english_plural}")
    for de, en in (("Küchen", "kitchen"), ("Garten", "garden"), ("Schul", "school"))
    for n in SIMPLE
]
THINGS = [*SIMPLE, *COMPOUNDS]


@dataclass(frozen=True)
class Verb:
    """German present singular, infinitive and participle without a prefix that separates; English base, present, past.

    ``case`` is that of the object, one of ``objects``; None: it takes none.
    """

    german: str
    english: str
    prefix: str = ""
    particle: str = ""
    case: int | None = None
    objects: tuple[Noun, ...] = ()
    sein: bool = False  # whether the perfect is formed with sein instead of haben


ANYTHING = (*LIVING, *THINGS)
VERBS = [
    Verb("schläft schlafen geschlafen", "sleep sleeps slept"),
    Verb("schläft schlafen geschlafen", "fall falls fell", "ein", "asleep", sein=True),
    Verb("kommt kommen gekommen", "arrive arrives arrived", "an", sein=True),
    Verb("läuft laufen gelaufen", "run runs ran", "weg", "away", sein=True),
    Verb("sieht sehen gesehen", "see sees saw", "", "", ACCUSATIVE, ANYTHING),
    Verb("sucht suchen gesucht", "look looks looked", "", "for", ACCUSATIVE, ANYTHING),
    Verb("findet finden gefunden", "find finds found", "", "", ACCUSATIVE, ANYTHING),
    Verb("kauft kaufen gekauft", "buy buys bought", "", "", ACCUSATIVE, tuple(THINGS)),
    Verb("schaut schauen geschaut", "look looks looked", "an", "at", ACCUSATIVE, ANYTHING),
    Verb("holt holen geholt", "pick picks picked", "ab", "up", ACCUSATIVE, ANYTHING),
    Verb("lädt laden geladen", "invite invites invited", "ein", "", ACCUSATIVE, tuple(LIVING)),
    Verb("hilft helfen geholfen", "help helps helped", "", "", DATIVE, tuple(LIVING)),
    Verb("folgt folgen gefolgt", "follow follows followed", "", "", DATIVE, tuple(LIVING), sein=True),
    Verb("hört hören gehört", "listen listens listened", "zu", "to", DATIVE, tuple(LIVING)),
]
MODALS = {"will": ("wollen", "want wants wanted"), "muss": ("müssen", "have has had")}


@dataclass(frozen=True)
class NounPhrase:
    noun: Noun
    plural: bool = False
    determiner: str = "der"
    adjective: tuple[str, str] | None = None

    @property
    def gender(self) -> str:
        return "p" if self.plural else self.noun.gender

    def german(self, case: int) -> str:
        determiner, endings = (forms[self.gender].split()[case] for forms in DETERMINERS[self.determiner])
        noun = self.noun.plural if self.plural else self.noun.singular
        if self.plural and case == DATIVE and not noun.endswith("n"):
            noun += "n"
        return join(determiner, self.adjective[0] + endings if self.adjective else "", noun)

    @property
    def english(self) -> str:
        noun = self.noun.english_plural if self.plural else self.noun.english
        words = join(self.adjective[1] if self.adjective else "", noun)
        determiner = {
            "der": "the",
            "dieser": "these" if self.plural else "this",
            "ein": "an" if words[0] in "aeiou" else "a",
        }
        return join(determiner[self.determiner], words)


@dataclass(frozen=True)
class Clause:
    """A subject, a verb and its object, in the word orders of both languages. ``time`` is in both."""

    subject: NounPhrase
    verb: Verb
    tense: str = "present"  # present | perfect | will | muss
    object: NounPhrase | None = None
    negated: bool = False
    time: tuple[str, str] = ("", "")

    def german(self, order: str) -> str:
        """``order`` is what stands first: subject, time, object, or verb; or final, with the verb at the end."""
        middle = {
            "subject": self.subject.german(NOMINATIVE),
            "time": self.time[0],
            "object": self.object.german(self.verb.case or 0) if self.object else "",
        }
        finite, rest = self._verb()
        first, *between = middle.pop(order, ""), *middle.values(), "nicht" if self.negated else ""
        if order == "final":
            return join(*between, *([rest + finite] if self.tense == "present" else [rest, finite]))
        return join(first, finite, *between, rest)

    def _verb(self) -> tuple[str, str]:
        """The finite verb, and what of it stands at the end of a main clause."""
        singular, infinitive, participle = self.verb.german.split()
        if self.tense == "present":
            return infinitive if self.subject.plural else singular, self.verb.prefix
        if self.tense == "perfect":
            have = ("ist", "sind") if self.verb.sein else ("hat", "haben")
            return have[self.subject.plural], self.verb.prefix + participle
        return MODALS[self.tense][0] if self.subject.plural else self.tense, self.verb.prefix + infinitive

    def english(self, question: bool = False) -> str:
        (base, present, past), tail = self.verb.english.split(), self.verb.particle
        if self.tense in MODALS:
            tail = join("to", base, tail)
            base, present, past = MODALS[self.tense][1].split()
        tail = join(tail, self.object.english if self.object else "", self.time[1])
        perfect, plural = self.tense == "perfect", self.subject.plural
        do = "did" if perfect else "do" if plural else "does"
        if question:
            return join(do, self.subject.english, base, tail)
        if self.negated:
            return join(self.subject.english, do, "not", base, tail)
        return join(self.subject.english, past if perfect else base if plural else present, tail)

    @property
    def unambiguous(self) -> bool:
        """Whether form says which noun phrase is the object, whatever their order."""
        if self.object is None:
            return False
        masculine = "m" in (self.subject.gender, self.object.gender)  # whose nominative and accusative differ
        return self.verb.case == DATIVE or masculine or self.subject.plural != self.object.plural


def join(*words: str) -> str:
    return " ".join(word for word in words if word)


class Grammar:
    """Draws pairs of sentences."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def chance(self, probability: float) -> bool:
        return self.random.random() < probability

    def pick(self, choices: Sequence[T]) -> T:
        return choices[int(self.random.random() * len(choices))]  # random.choice may change with Python's version

    def noun_phrase(self, nouns: Sequence[Noun], definite: bool) -> NounPhrase:
        """One of these nouns, with ``definite`` not with ein."""
        plural = self.chance(0.3)
        determiner = self.pick(["der", "dieser"] if plural or definite else ["der", "dieser", "ein"])
        return NounPhrase(self.pick(nouns), plural, determiner, self.pick(ADJECTIVES) if self.chance(0.4) else None)

    def clause(self) -> Clause:
        verb, tense, negated = self.pick(VERBS), self.pick(["present", "perfect", *MODALS]), self.chance(0.15)
        subject = self.noun_phrase(LIVING, negated)
        others = [noun for noun in verb.objects if noun != subject.noun]
        time = ("gestern", "yesterday") if tense == "perfect" else self.pick([("heute", "today"), ("nun", "now")])
        return Clause(
            subject,
            verb,
            tense,
            self.noun_phrase(others, negated) if others else None,
            negated,
            time if self.chance(0.4) else ("", ""),
        )

    def sentence(self) -> tuple[str, str]:
        """In German and English: a statement, a question, or a main and a subordinate clause."""
        clause, end = self.clause(), "."
        kind = self.random.random()
        if kind < 0.15:
            clause, end = replace(clause, negated=False), "?"
            german, english = clause.german("verb"), clause.english(question=True)
        elif kind < 0.5:
            orders = ["subject", *(["time"] if clause.time[0] else []), *(["object"] if clause.unambiguous else [])]
            german, english = clause.german(self.pick(orders)), clause.english()
        else:
            (weil, because), other = self.pick([("weil", "because"), ("obwohl", "although")]), self.clause()
            if self.chance(0.5):
                german = f"{clause.german('subject')}, {weil} {other.german('final')}"
                english = f"{clause.english()} {because} {other.english()}"
            else:
                german = f"{weil} {other.german('final')}, {clause.german('verb')}"
                english = f"{because} {other.english()}, {clause.english()}"
        return german[0].upper() + german[1:] + end, english[0].upper() + english[1:] + end


def corpus(seed: int = 0) -> dict[str, tuple[list[str], list[str]]]:
    """German and English lines of ``train``, ``valid`` and ``test``: no sentence occurs twice in either language."""
    grammar = Grammar(seed)
    german: dict[str, None] = {}  # sets that keep their order
    english: dict[str, None] = {}
    while len(german) < sum(SIZES.values()):
        source, target = grammar.sentence()
        if source not in german and target not in english:
            german[source] = english[target] = None
    sides = list(german), list(english)
    splits, start = {}, 0
    for split, size in SIZES.items():
        splits[split] = sides[0][start : start + size], sides[1][start : start + size]
        start += size
    return splits
