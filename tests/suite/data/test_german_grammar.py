import re
import subprocess
import sys
from collections import Counter
from itertools import pairwise

import pytest

from multimax.suite.data.bitext import TranslationData, open_bitext
from multimax.suite.data.german_grammar import (
    ADJECTIVES,
    DEFINITE,
    INDEFINITE,
    LIVING,
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


def phrase(noun: str, article: str = "der", adjective: str = "", plural: bool = False) -> NounPhrase:
    return NounPhrase(NOUN[noun], plural, article == "der", ADJECTIVE.get(adjective))


@pytest.mark.parametrize(
    ("words", "cases"),  # nominative, accusative, dative, as in a grammar book
    [
        (("Mann", "der", "old"), "der alte Mann, den alten Mann, dem alten Mann"),
        (("Frau", "der", "old"), "die alte Frau, die alte Frau, der alten Frau"),
        (("Kind", "der", "old"), "das alte Kind, das alte Kind, dem alten Kind"),
        (("Hund", "ein", "big"), "ein großer Hund, einen großen Hund, einem großen Hund"),
        (("Tür", "ein", "new"), "eine neue Tür, eine neue Tür, einer neuen Tür"),
        (("Pferd", "ein", "small"), "ein kleines Pferd, ein kleines Pferd, einem kleinen Pferd"),
        (("Hund", "der", "big", True), "die großen Hunde, die großen Hunde, den großen Hunden"),
        (("Frau", "der", "old", True), "die alten Frauen, die alten Frauen, den alten Frauen"),
        (("Kind", "der", "", True), "die Kinder, die Kinder, den Kindern"),
    ],
)
def test_noun_phrases_agree(words, cases):
    assert [phrase(*words).german(case) for case in range(3)] == cases.split(", ")


def test_english_articles():
    assert phrase("Hund", "ein").english() == "a dog"
    assert phrase("Hund", "ein", "old").english() == "an old dog"
    assert phrase("Kind", "der", "", True).english() == "the children"


MAN, WOMEN, DOOR = phrase("Mann"), phrase("Frau", plural=True), phrase("Tür")
FETCH = Clause(MAN, VERB["pickup"], object=DOOR)


@pytest.mark.parametrize(
    ("clause", "order", "german", "english"),
    [
        (FETCH, "subject", "der Mann holt die Tür ab", "the man picks up the door"),
        (FETCH, "final", "der Mann die Tür abholt", "the man picks up the door"),
        (
            Clause(WOMEN, VERB["pickup"], True, DOOR),
            "final",
            "die Frauen die Tür abgeholt haben",
            "the women picked up the door",
        ),
        (Clause(WOMEN, VERB["fallasleep"], True), "subject", "die Frauen sind eingeschlafen", "the women fell asleep"),
        (Clause(MAN, VERB["help"], object=WOMEN), "object", "den Frauen hilft der Mann", "the man helps the women"),
        (FETCH, "verb", "holt der Mann die Tür ab", "the man picks up the door"),
    ],
)
def test_clauses(clause, order, german, english):
    assert (clause.german(order), clause.english()) == (german, english)


def test_an_object_stands_first_only_where_form_says_who_does_what():
    woman, girl, man = phrase("Frau"), phrase("Mädchen"), phrase("Mann")
    # In "die Frau sieht das Mädchen" either could be the one who sees.
    assert not Clause(woman, VERB["see"], object=girl).unambiguous()
    assert Clause(woman, VERB["see"], object=man).unambiguous()  # den Mann
    assert Clause(woman, VERB["help"], object=girl).unambiguous()  # dem Mädchen
    assert not Clause(woman, VERB["sleep"]).unambiguous()


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
    articles = {
        gender: {form for table in (DEFINITE, INDEFINITE) for form in table[gender][0].split()} for gender in "mfn"
    }
    finite = {verb.prefix + form for verb in VERBS for form in verb.german.split()[:2]}
    finite |= {"hat", "haben", "ist", "sind"}
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
        seen["object first"] += german.startswith(("Den ", "Dem ", "Einen ", "Einem "))
    assert all(seen[kind] > 500 for kind in ("article", "subordinate", "separate", "object first")), seen


def test_it_is_a_corpus_like_any_other(tmp_path, monkeypatch):
    monkeypatch.setitem(SIZES, "train", 1000)  # tokenising all of it takes seconds
    bitext = open_bitext(TranslationData("few", "synthetic", bpe_merges=None, cache_dir=str(tmp_path)))
    assert {split: len(bitext.splits[split]) for split in ("validation", "test")} == {"validation": 500, "test": 500}
    raw = bitext.references("test").raw
    assert [bitext.detokenize(bitext.splits["test"].targets[i]) for i in range(5)] == [line.lower() for line in raw[:5]]
