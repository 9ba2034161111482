"""A synthetic corpus: German and English sentences that a small grammar generates together.

It has what makes German hard to translate: the verb at the end of subordinate clauses, prefixes that separate, objects
before subjects, articles and adjectives that agree in gender, number, case and determiner, verbs with the dative, the
perfect with haben or sein, compounds. Where form would leave open which noun phrase is the subject, no sentence is
made: a source has one translation. The words are in ``german_words``.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from multimax.suite.data.german_words import (
    ADJECTIVES,
    COMPOUNDS,
    DATIVE,
    INTRANSITIVE,
    LIVING,
    MASCULINE,
    NOMINATIVE,
    NOUNS,
    PEOPLE,
    PERSON,
    PLACES,
    TRANSITIVE,
    Adjective,
    Noun,
    Verb,
)

LANGUAGES = ("de", "en")
SIZES = {"train": 19_000, "valid": 500, "test": 500}

# Endings by gender (p: plural, of any gender), each for nominative, accusative and dative.
DEFINITE = {
    "m": ("der", "den", "dem"),
    "f": ("die", "die", "der"),
    "n": ("das", "das", "dem"),
    "p": ("die", "die", "den"),
}
DIES = {"m": ("er", "en", "em"), "f": ("e", "e", "er"), "n": ("es", "es", "em"), "p": ("e", "e", "en")}
EIN = {"m": ("", "en", "em"), "f": ("e", "e", "er"), "n": ("", "", "em"), "p": ("e", "e", "en")}
WEAK = {"m": ("e", "en", "en"), "f": ("e", "e", "en"), "n": ("e", "e", "en"), "p": ("en", "en", "en")}
MIXED = {"m": ("er", "en", "en"), "f": ("e", "e", "en"), "n": ("es", "es", "en"), "p": ("en", "en", "en")}
RELATIVE = {**DEFINITE, "p": ("die", "die", "denen")}

T = TypeVar("T")


@dataclass(frozen=True)
class NounPhrase:
    noun: Noun
    plural: bool
    determiner: str  # der | dies | ein | mein
    adjective: Adjective | None

    @property
    def gender(self) -> str:
        return "p" if self.plural else self.noun.gender

    @property
    def masculine(self) -> bool:
        """Whether nominative and accusative differ."""
        return self.gender == MASCULINE

    def german(self, case: int) -> str:
        if self.determiner == "der":
            words = [DEFINITE[self.gender][case]]
        else:
            words = [self.determiner + (DIES if self.determiner == "dies" else EIN)[self.gender][case]]
        if self.adjective:
            endings = WEAK if self.determiner in ("der", "dies") else MIXED
            words.append(self.adjective.stem + endings[self.gender][case])
        return " ".join([*words, self.noun.german(case, self.plural)])

    @property
    def english(self) -> str:
        words = [self.adjective.english] if self.adjective else []
        words.append(self.noun.english_plural if self.plural else self.noun.english)
        article = "an" if words[0][0] in "aeiou" else "a"
        determiner = {"der": "the", "ein": article, "mein": "my", "dies": "these" if self.plural else "this"}
        return " ".join([determiner[self.determiner], *words])


@dataclass(frozen=True)
class Clause:
    """A subject, a verb and what it takes, in one of ``TENSES``, in the word orders of both languages."""

    subject: NounPhrase
    verb: Verb
    tense: str = "present"  # present | perfect | kann | will | muss
    negated: bool = False
    recipient: NounPhrase | None = None
    object: NounPhrase | None = None
    time: tuple[str, str] | None = None
    place: tuple[str, str] | None = None

    # German: a finite verb, what stands between it and the end, and the rest of the verb.

    def finite(self) -> str:
        plural, (singular, infinitive, _) = self.subject.plural, self.verb.forms
        if self.tense == "present":
            return infinitive if plural else singular
        if self.tense == "perfect":
            return (("ist", "sind") if self.verb.sein else ("hat", "haben"))[plural]
        return {"kann": ("kann", "können"), "will": ("will", "wollen"), "muss": ("muss", "müssen")}[self.tense][plural]

    def rest(self) -> str:
        _, infinitive, participle = self.verb.forms
        if self.tense == "present":
            return self.verb.prefix
        return self.verb.prefix + (participle if self.tense == "perfect" else infinitive)

    def middle(self) -> list[str]:
        return [
            *([self.time[0]] if self.time else []),
            *([self.recipient.german(DATIVE)] if self.recipient else []),
            *([self.object.german(self.case)] if self.object else []),
            *(["nicht"] if self.negated else []),
            *([self.place[0]] if self.place else []),
        ]

    @property
    def case(self) -> int:
        assert self.verb.case is not None
        return self.verb.case

    def main(self) -> str:
        """The verb second, behind the subject."""
        return join(self.subject.german(NOMINATIVE), self.finite(), *self.middle(), self.rest())

    def inverted(self) -> str:
        """The verb first: a question, or what follows something else in front."""
        return join(self.finite(), self.subject.german(NOMINATIVE), *self.middle(), self.rest())

    def final(self, subject: str | None = None) -> str:
        """The verb last; ``subject`` stands in for the subject, such as a relative pronoun."""
        start = self.subject.german(NOMINATIVE) if subject is None else subject
        if self.tense == "present":
            return join(start, *self.middle(), self.rest() + self.finite())
        return join(start, *self.middle(), self.rest(), self.finite())

    def infinitive(self) -> str:
        """With zu, which stands behind a prefix that separates."""
        _, infinitive, _ = self.verb.forms
        return join(*self.middle(), f"{self.verb.prefix}zu{infinitive}" if self.verb.prefix else f"zu {infinitive}")

    # English: a subject, and a verb that may need "do".

    def english(self, question: bool = False, subject: str | None = None) -> str:
        plural, start = self.subject.plural, self.subject.english if subject is None else subject
        (base, present, past), tail = self.verb.english, self.verb.particle
        if self.tense == "will":
            (base, present, past), tail = ("want", "wants", "wanted"), join("to", base, tail)
        elif self.tense == "muss":
            (base, present, past), tail = ("have", "has", "had"), join("to", base, tail)
        tail = join(tail, self.complement())
        if self.tense == "kann":
            if question:
                return join("can", start, base, tail)
            return join(start, "cannot" if self.negated else "can", base, tail)
        do = "did" if self.tense == "perfect" else "do" if plural else "does"
        if question:
            return join(do, start, base, tail)
        if self.negated:
            return join(start, do, "not", base, tail)
        return join(start, past if self.tense == "perfect" else base if plural else present, tail)

    def complement(self) -> str:
        phrases = [self.recipient, self.object]
        return join(*(p.english for p in phrases if p), *(pair[1] for pair in (self.place, self.time) if pair))


def join(*words: str) -> str:
    return " ".join(word for word in words if word)


def unambiguous(subject: NounPhrase, verb: Verb, other: NounPhrase) -> bool:
    """Whether form says which of the two is the subject, whatever their order."""
    return verb.case == DATIVE or subject.masculine or other.masculine or subject.plural != other.plural


class Grammar:
    """Draws pairs of sentences."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def chance(self, probability: float) -> bool:
        return self.random.random() < probability

    def pick(self, choices: Sequence[T]) -> T:
        return choices[int(self.random.random() * len(choices))]  # random.choice may change with Python's version

    def noun_phrase(self, kinds: Sequence[str], *others: NounPhrase | None, definite: bool = False) -> NounPhrase:
        """One of these kinds, of another noun than ``others``; with ``definite`` not with ein."""
        kind = self.pick(kinds)
        taken = [other.noun for other in others if other]
        compound = kind not in LIVING and self.chance(0.5)
        noun = self.pick([n for n in (COMPOUNDS if compound else NOUNS) if n.kind == kind and n not in taken])
        plural = self.chance(0.3)
        determiner = self.pick(["der"] * 4 + ["dies", "mein"] + ["ein"] * (0 if plural or definite else 2))
        adjective = self.pick([a for a in ADJECTIVES if kind in a.kinds]) if self.chance(0.3) else None
        return NounPhrase(noun, plural, determiner, adjective)

    def clause(self, subject: NounPhrase | None = None, simple: bool = False) -> Clause:
        """With ``simple`` without place, and in the present or perfect."""
        verb = self.pick(TRANSITIVE if self.chance(0.75) else INTRANSITIVE)
        if subject is not None and subject.noun.kind not in verb.subjects:
            return self.clause(subject, simple)
        negated = self.chance(0.15)
        subject = subject or self.noun_phrase(verb.subjects, definite=negated)
        recipient = self.noun_phrase(PEOPLE, subject, definite=negated) if verb.recipient else None
        object_ = self.noun_phrase(verb.objects, subject, recipient, definite=negated) if verb.objects else None
        tense = self.pick(["present"] * 4 + ["perfect"] * 3 + ([] if simple else ["kann", "will", "muss"]))
        place = self.pick(PLACES) if not simple and self.chance(0.2) else None
        return Clause(subject, verb, tense, negated, recipient, object_, place=place)

    def sentence(self) -> tuple[str, str]:
        """A German sentence and its English translation."""
        kind = self.pick(
            [self.statement] * 4 + [self.question, self.reason, self.reason, self.report, self.relative, self.purpose]
        )
        german, english = kind()
        end = "?" if kind == self.question else "."
        return german[0].upper() + german[1:] + end, english[0].upper() + english[1:] + end

    def statement(self) -> tuple[str, str]:
        """A main clause, in front of its verb the subject, a time or an object."""
        clause = self.clause()
        times = [
            ("heute", "today"),
            ("gestern", "yesterday") if clause.tense == "perfect" else ("jeden Tag", "every day"),
        ]
        front = self.random.random()
        if front < 0.4:
            return clause.main(), clause.english()
        if front < 0.5:
            clause = replace(clause, time=self.pick(times))
            return clause.main(), clause.english()
        if front < 0.7 or clause.object is None or not unambiguous(clause.subject, clause.verb, clause.object):
            german, english = self.pick(times)
            return join(german, clause.inverted()), join(english, clause.english())
        if clause.recipient:
            first, without = clause.recipient.german(DATIVE), replace(clause, recipient=None)
        else:
            first, without = clause.object.german(clause.case), replace(clause, object=None)
        return join(first, without.inverted()), clause.english()

    def question(self) -> tuple[str, str]:
        clause = replace(self.clause(), negated=False)
        return clause.inverted(), clause.english(question=True)

    def reason(self) -> tuple[str, str]:
        """A main and a subordinate clause, in either order."""
        german, english = self.pick([("weil", "because"), ("obwohl", "although"), ("bevor", "before")])
        main = self.clause(simple=True)
        subordinate = self.clause(self.noun_phrase(LIVING, main.subject), simple=True)
        if german == "bevor":
            subordinate = replace(subordinate, tense=main.tense, negated=False)
        if self.chance(0.5):
            return (
                f"{main.main()}, {german} {subordinate.final()}",
                f"{main.english()} {english} {subordinate.english()}",
            )
        return (
            f"{german} {subordinate.final()}, {main.inverted()}",
            f"{english} {subordinate.english()}, {main.english()}",
        )

    def report(self) -> tuple[str, str]:
        singular, plural, base, present = self.pick(
            [
                ("weiß", "wissen", "know", "knows"),
                ("glaubt", "glauben", "believe", "believes"),
                ("sagt", "sagen", "say", "says"),
            ]
        )
        speaker = self.noun_phrase(PEOPLE)
        clause = self.clause(self.noun_phrase(LIVING, speaker))
        german, english = (plural, base) if speaker.plural else (singular, present)
        return (
            f"{speaker.german(NOMINATIVE)} {german}, dass {clause.final()}",
            f"{speaker.english} {english} that {clause.english()}",
        )

    def relative(self) -> tuple[str, str]:
        """A clause about its subject, or about its object, at a subject."""
        clause = replace(self.clause(simple=True), recipient=None)
        if (
            clause.object is None
            or clause.verb.recipient
            or not unambiguous(clause.subject, clause.verb, clause.object)
        ):
            return self.relative()
        if self.chance(0.5) or clause.object.noun.kind not in LIVING:
            subject = clause.subject
            inner = clause.final(RELATIVE[subject.gender][NOMINATIVE])
            translation = clause.english(subject="who" if subject.noun.kind == PERSON else "that")
        else:
            subject = clause.object
            without = replace(clause, object=None)
            inner = join(RELATIVE[subject.gender][clause.case], without.final())
            translation = f"that {without.english()}"
        if subject.determiner == "ein":
            subject = replace(subject, determiner="der")
        outer = self.clause(subject, simple=True)
        predicate = outer.main().removeprefix(subject.german(NOMINATIVE))
        return (
            f"{subject.german(NOMINATIVE)}, {inner},{predicate}",
            outer.english(subject=f"{subject.english} {translation}"),
        )

    def purpose(self) -> tuple[str, str]:
        """An infinitive with um and zu."""
        clause = replace(self.clause(simple=True), tense="present", negated=False)
        subject, verb = clause.subject, clause.verb
        if subject.noun.kind != PERSON or clause.object is None:
            return self.purpose()
        german, english = ("kommen", "come") if subject.plural else ("kommt", "comes")
        return (
            f"{subject.german(NOMINATIVE)} {german} nach Hause, um {clause.infinitive()}",
            join(subject.english, english, "home to", verb.english[0], verb.particle, clause.complement()),
        )


def corpus(seed: int = 0) -> dict[str, tuple[list[str], list[str]]]:
    """German and English lines of ``train``, ``valid`` and ``test``: no sentence occurs twice in either language."""
    grammar = Grammar(seed)
    pairs: dict[str, str] = {}
    translations: set[str] = set()
    total = sum(SIZES.values())
    while len(pairs) < total:
        german, english = grammar.sentence()
        if german not in pairs and english not in translations:
            pairs[german] = english
            translations.add(english)
    lines = list(pairs.items())
    splits: dict[str, tuple[list[str], list[str]]] = {}
    for split, size in SIZES.items():
        chosen, lines = lines[:size], lines[size:]
        splits[split] = [german for german, _ in chosen], [english for _, english in chosen]
    return splits
