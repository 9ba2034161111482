import re
import subprocess
import sys
from collections import Counter
from itertools import pairwise

import pytest

from multimax.suite.data.bitext import TranslationData, open_bitext
from multimax.suite.data.german_grammar import (
    ADJECTIVES,
    COMPOUNDS,
    DER,
    DIESER,
    EIN,
    LIVING,
    MODALS,
    SIZES,
    THINGS,
    VERBS,
    Clause,
    Grammar,
    NounPhrase,
    corpus,
)

ADJECTIVE = {english: (german, english) for german, english in ADJECTIVES}
NOUN = {noun.singular: noun for noun in (*LIVING, *THINGS)}
VERB = {verb.english.split()[0] + verb.particle: verb for verb in VERBS}


@pytest.fixture(scope="module")
def lines():
    return corpus()


@pytest.fixture(scope="module")
def pairs(lines):
    return [pair for sides in lines.values() for pair in zip(*sides, strict=True)]


def phrase(noun: str, determiner: str = "der", adjective: str = "", plural: bool = False) -> NounPhrase:
    return NounPhrase(NOUN[noun], plural, determiner, ADJECTIVE.get(adjective))


@pytest.mark.parametrize(
    ("words", "cases"),  # as a grammar book has them: nominative, accusative, dative
    [
        (("Mann", "der", "old"), "der alte Mann, den alten Mann, dem alten Mann"),
        (("Frau", "der", "old"), "die alte Frau, die alte Frau, der alten Frau"),
        (("Kind", "der", "old"), "das alte Kind, das alte Kind, dem alten Kind"),
        (("Hund", "ein", "big"), "ein großer Hund, einen großen Hund, einem großen Hund"),
        (("Tür", "ein", "new"), "eine neue Tür, eine neue Tür, einer neuen Tür"),
        (("Pferd", "ein", "small"), "ein kleines Pferd, ein kleines Pferd, einem kleinen Pferd"),
        (("Stuhl", "dieser", "new"), "dieser neue Stuhl, diesen neuen Stuhl, diesem neuen Stuhl"),
        (("Buch", "dieser", "small"), "dieses kleine Buch, dieses kleine Buch, diesem kleinen Buch"),
        (("Hund", "der", "big", True), "die großen Hunde, die großen Hunde, den großen Hunden"),
        (("Frau", "dieser", "old", True), "diese alten Frauen, diese alten Frauen, diesen alten Frauen"),
        (("Kind", "dieser", "", True), "diese Kinder, diese Kinder, diesen Kindern"),
        (("Küchenfenster", "der", "", True), "die Küchenfenster, die Küchenfenster, den Küchenfenstern"),
    ],
)
def test_noun_phrases_agree(words, cases):
    assert [phrase(*words).german(case) for case in range(3)] == cases.split(", ")


def test_english_articles():
    assert phrase("Hund", "ein").english == "a dog"
    assert phrase("Hund", "ein", "old").english == "an old dog"
    assert phrase("Kind", "dieser", "", True).english == "these children"


MAN, WOMEN, DOOR, TODAY = phrase("Mann"), phrase("Frau", plural=True), phrase("Küchentür"), ("heute", "today")
FETCH = Clause(MAN, VERB["pickup"], object=DOOR)


@pytest.mark.parametrize(
    ("clause", "order", "german", "english"),
    [
        (FETCH, "subject", "der Mann holt die Küchentür ab", "the man picks up the kitchen door"),
        (FETCH, "final", "der Mann die Küchentür abholt", "the man picks up the kitchen door"),
        (
            Clause(WOMEN, VERB["pickup"], "perfect", DOOR),
            "final",
            "die Frauen die Küchentür abgeholt haben",
            "the women picked up the kitchen door",
        ),
        (
            Clause(WOMEN, VERB["fallasleep"], "perfect"),
            "subject",
            "die Frauen sind eingeschlafen",
            "the women fell asleep",
        ),
        (
            Clause(WOMEN, VERB["fallasleep"], "perfect", negated=True),
            "subject",
            "die Frauen sind nicht eingeschlafen",
            "the women did not fall asleep",
        ),
        (Clause(MAN, VERB["help"], object=WOMEN), "object", "den Frauen hilft der Mann", "the man helps the women"),
        (
            Clause(MAN, VERB["lookfor"], object=DOOR, negated=True),
            "subject",
            "der Mann sucht die Küchentür nicht",
            "the man does not look for the kitchen door",
        ),
        (
            Clause(MAN, VERB["pickup"], "muss", DOOR, time=TODAY),
            "time",
            "heute muss der Mann die Küchentür abholen",
            "the man has to pick up the kitchen door today",
        ),
        (
            Clause(WOMEN, VERB["see"], "will", DOOR, negated=True, time=TODAY),
            "final",
            "die Frauen heute die Küchentür nicht sehen wollen",
            "the women do not want to see the kitchen door today",
        ),
    ],
)
def test_clauses(clause, order, german, english):
    assert (clause.german(order), clause.english()) == (german, english)


def test_questions():
    assert FETCH.german("verb") == "holt der Mann die Küchentür ab"
    assert FETCH.english(question=True) == "does the man pick up the kitchen door"


def test_an_object_stands_first_only_where_form_says_who_does_what():
    woman, girl, man = phrase("Frau"), phrase("Mädchen"), phrase("Mann")
    assert not Clause(woman, VERB["see"], object=girl).unambiguous  # die Frau sieht das Mädchen: either could see
    assert Clause(man, VERB["see"], object=woman).unambiguous  # der Mann
    assert Clause(woman, VERB["see"], object=man).unambiguous  # den Mann
    assert Clause(woman, VERB["help"], object=girl).unambiguous  # dem Mädchen
    assert Clause(WOMEN, VERB["see"], object=girl).unambiguous  # sehen


def test_translation_is_a_function_and_no_sentence_occurs_twice(lines, pairs):
    assert {split: len(german) for split, (german, _) in lines.items()} == SIZES
    assert sum(SIZES.values()) == 20_000
    for side in (0, 1):
        assert max(Counter(pair[side] for pair in pairs).values()) == 1
    words = [{word for line in lines[split][0] for word in line.split()} for split in ("train", "test")]
    assert len(words[1] - words[0]) < 5  # the sentences are new, not the words


def test_the_corpus_is_the_same_in_every_process():
    module = "multimax.suite.data.german_grammar"
    code = f"from {module} import Grammar; g = Grammar(0); print([g.sentence() for _ in range(50)])"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    grammar = Grammar(0)
    assert other == str([grammar.sentence() for _ in range(50)])
    assert other != str([Grammar(1).sentence() for _ in range(50)])


def test_articles_before_nouns_and_verbs_at_the_end(pairs):
    genders = {noun.singular: noun.gender for noun in NOUN.values() if noun.singular != noun.plural}
    articles = {gender: {form for table in (DER, DIESER, EIN) for form in table[gender].split()} for gender in "mfn"}
    finite = {verb.prefix + form for verb in VERBS for form in verb.german.split()[:2]}
    finite |= {"hat", "haben", "ist", "sind", *MODALS, *(plural for plural, _ in MODALS.values())}
    seen = Counter()
    for german, english in pairs:
        words = re.findall(r"\w+", german[0].lower() + german[1:])
        for before, noun in pairwise(words):
            if noun in genders and before in set().union(*articles.values()):
                assert before in articles[genders[noun]], german
                seen["article"] += 1
        for clause in re.findall(r"\b(?:[Ww]eil|[Oo]bwohl) ([^,.]*)", german):
            assert clause.split()[-1] in finite, german
            seen["subordinate"] += 1
        assert not re.search(r"\ba [aeiou]|\ban [^aeiou]", english), english
        seen["separate"] += bool(re.search(r" (zu|an|ein|ab|weg)[.?,]", german))
        seen["compound"] += any(noun.singular in words for noun in COMPOUNDS)
        seen["object first"] += german.startswith(("Den ", "Dem ", "Einen ", "Einem ", "Diesen ", "Diesem "))
    assert all(seen[kind] > 500 for kind in ("article", "subordinate", "separate", "compound", "object first")), seen


def test_it_is_a_corpus_like_any_other(tmp_path, monkeypatch):
    monkeypatch.setitem(SIZES, "train", 1000)  # tokenising all of it takes seconds
    bitext = open_bitext(TranslationData("few", "synthetic", bpe_merges=None, cache_dir=str(tmp_path)))
    assert {split: len(bitext.splits[split]) for split in ("validation", "test")} == {"validation": 500, "test": 500}
    raw = bitext.references("test").raw
    assert [bitext.detokenize(bitext.splits["test"].targets[i]) for i in range(5)] == [line.lower() for line in raw[:5]]
