import re
import subprocess
import sys
from collections import Counter
from itertools import pairwise

import pytest

from multimax.suite.data.bitext import TranslationData, open_bitext
from multimax.suite.data.german_grammar import SIZES, Clause, Grammar, NounPhrase, corpus, unambiguous
from multimax.suite.data.german_words import ADJECTIVES, COMPOUNDS, INTRANSITIVE, NOUNS, TRANSITIVE

ADJECTIVE = {adjective.english: adjective for adjective in ADJECTIVES}
NOUN = {noun.singular: noun for noun in NOUNS}
VERB = {verb.english[0] + verb.particle: verb for verb in (*TRANSITIVE, *INTRANSITIVE)}


@pytest.fixture(scope="module")
def lines():
    return corpus()


@pytest.fixture(scope="module")
def pairs(lines):
    return [pair for sides in lines.values() for pair in zip(*sides, strict=True)]


def phrase(noun: str, determiner: str = "der", adjective: str | None = None, plural: bool = False) -> NounPhrase:
    return NounPhrase(NOUN[noun], plural, determiner, ADJECTIVE[adjective] if adjective else None)


@pytest.mark.parametrize(
    ("words", "cases"),  # as a grammar book has them: nominative, accusative, dative
    [
        (("Mann", "der", "old"), "der alte Mann, den alten Mann, dem alten Mann"),
        (("Frau", "der", "old"), "die alte Frau, die alte Frau, der alten Frau"),
        (("Kind", "der", "old"), "das alte Kind, das alte Kind, dem alten Kind"),
        (("Hund", "ein", "young"), "ein junger Hund, einen jungen Hund, einem jungen Hund"),
        (("Tür", "ein", "new"), "eine neue Tür, eine neue Tür, einer neuen Tür"),
        (("Pferd", "ein", "black"), "ein schwarzes Pferd, ein schwarzes Pferd, einem schwarzen Pferd"),
        (("Koffer", "mein", "expensive"), "mein teurer Koffer, meinen teuren Koffer, meinem teuren Koffer"),
        (("Katze", "mein", "tired"), "meine müde Katze, meine müde Katze, meiner müden Katze"),
        (("Apfel", "dies", "red"), "dieser rote Apfel, diesen roten Apfel, diesem roten Apfel"),
        (("Buch", "dies", "small"), "dieses kleine Buch, dieses kleine Buch, diesem kleinen Buch"),
        (("Junge", "der", None), "der Junge, den Jungen, dem Jungen"),
        (("Nachbar", "ein", "old"), "ein alter Nachbar, einen alten Nachbarn, einem alten Nachbarn"),
        (("Apfel", "der", "red", True), "die roten Äpfel, die roten Äpfel, den roten Äpfeln"),
        (("Frau", "mein", "young", True), "meine jungen Frauen, meine jungen Frauen, meinen jungen Frauen"),
        (("Kind", "dies", None, True), "diese Kinder, diese Kinder, diesen Kindern"),
        (
            ("Küchenfenster", "der", "old", True),
            "die alten Küchenfenster, die alten Küchenfenster, den alten Küchenfenstern",
        ),
    ],
)
def test_noun_phrases_agree(words, cases):
    assert [phrase(*words).german(case) for case in range(3)] == cases.split(", ")


def test_english_articles():
    assert phrase("Apfel", "ein").english == "an apple"
    assert phrase("Apfel", "ein", "red").english == "a red apple"
    assert phrase("Hund", "ein", "old").english == "an old dog"
    assert phrase("Kind", "dies", None, True).english == "these children"


MAN, WOMEN, DOOR = phrase("Mann"), phrase("Frau", plural=True), phrase("Küchentür")
CLOSE = Clause(MAN, VERB["close"], object=DOOR)
GIVE = Clause(MAN, VERB["give"], recipient=phrase("Ärztin"), object=phrase("Apfel", "ein"))


@pytest.mark.parametrize(
    ("made", "right"),
    [
        (CLOSE.main(), "der Mann macht die Küchentür zu"),
        (CLOSE.final(), "der Mann die Küchentür zumacht"),
        (CLOSE.inverted(), "macht der Mann die Küchentür zu"),
        (CLOSE.infinitive(), "die Küchentür zuzumachen"),
        (CLOSE.english(), "the man closes the kitchen door"),
        (CLOSE.english(question=True), "does the man close the kitchen door"),
        (Clause(WOMEN, VERB["close"], "perfect", object=DOOR).main(), "die Frauen haben die Küchentür zugemacht"),
        (Clause(WOMEN, VERB["close"], "perfect", object=DOOR).final(), "die Frauen die Küchentür zugemacht haben"),
        (Clause(WOMEN, VERB["close"], "perfect", object=DOOR).english(), "the women closed the kitchen door"),
        (Clause(WOMEN, VERB["fallasleep"], "perfect").main(), "die Frauen sind eingeschlafen"),
        (Clause(WOMEN, VERB["fallasleep"], "perfect", True).english(), "the women did not fall asleep"),
        (Clause(MAN, VERB["help"], object=WOMEN).main(), "der Mann hilft den Frauen"),
        (Clause(MAN, VERB["lookfor"], negated=True, object=DOOR).main(), "der Mann sucht die Küchentür nicht"),
        (
            Clause(MAN, VERB["lookfor"], negated=True, object=DOOR).english(),
            "the man does not look for the kitchen door",
        ),
        (Clause(MAN, VERB["close"], "muss", object=DOOR).main(), "der Mann muss die Küchentür zumachen"),
        (Clause(MAN, VERB["close"], "muss", object=DOOR).english(), "the man has to close the kitchen door"),
        (Clause(MAN, VERB["close"], "will", True, object=DOOR).final(), "der Mann die Küchentür nicht zumachen will"),
        (
            Clause(MAN, VERB["close"], "will", True, object=DOOR).english(),
            "the man does not want to close the kitchen door",
        ),
        (Clause(WOMEN, VERB["wait"], "kann", True).english(), "the women cannot wait"),
        (Clause(WOMEN, VERB["pickup"], "kann", object=MAN).english(True), "can the women pick up the man"),
        (GIVE.main(), "der Mann gibt der Ärztin einen Apfel"),
        (GIVE.english(), "the man gives the doctor an apple"),
    ],
)
def test_clauses(made, right):
    assert made == right


def test_a_sentence_is_made_only_where_form_says_who_does_what():
    woman, girl, man = phrase("Frau"), phrase("Mädchen"), phrase("Mann")
    assert not unambiguous(woman, VERB["see"], girl)  # die Frau sieht das Mädchen: either could see the other
    assert unambiguous(man, VERB["see"], woman)  # der Mann
    assert unambiguous(woman, VERB["see"], man)  # den Mann
    assert unambiguous(woman, VERB["help"], girl)  # dem Mädchen
    assert unambiguous(WOMEN, VERB["see"], girl)  # sehen


def test_translation_is_a_function_and_no_sentence_occurs_twice(lines, pairs):
    assert {split: len(german) for split, (german, _) in lines.items()} == SIZES
    assert sum(SIZES.values()) == 20_000
    for side in (0, 1):
        assert max(Counter(pair[side] for pair in pairs).values()) == 1
    words = [{word for line in lines[split][0] for word in line.split()} for split in ("train", "test")]
    assert len(words[1] - words[0]) < 5  # the sentences are new, not the words


def test_the_corpus_is_the_same_in_every_process(lines):
    module = "multimax.suite.data.german_grammar"
    code = f"from {module} import Grammar; g = Grammar(0); print([g.sentence() for _ in range(50)])"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    grammar = Grammar(0)
    assert other == str([grammar.sentence() for _ in range(50)])
    assert other != str([Grammar(1).sentence() for _ in range(50)])


def test_articles_before_nouns_and_verbs_at_the_end(pairs):
    genders = {form: noun.gender for noun in NOUNS for form in [noun.singular] if form != noun.plural and not noun.weak}
    articles = {
        "m": {"der", "den", "dem", "ein", "einen", "einem"},
        "f": {"die", "der", "eine", "einer"},
        "n": {"das", "dem", "ein", "einem"},
    }
    finite = {verb.prefix + verb.forms[0] for verb in VERB.values()} | {
        verb.prefix + verb.forms[1] for verb in VERB.values()
    }
    finite |= {"hat", "haben", "ist", "sind", "kann", "können", "will", "wollen", "muss", "müssen"}
    seen = Counter()
    for german, english in pairs:
        words = re.findall(r"\w+", german[0].lower() + german[1:])
        for before, noun in pairwise(words):
            if noun in genders and before in set().union(*articles.values()):
                assert before in articles[genders[noun]], german
                seen["article"] += 1
        for clause in re.findall(r"\b(?:[Ww]eil|[Oo]bwohl|[Bb]evor|dass) ([^,.]*)", german):
            assert clause.split()[-1] in finite, german
            seen["subordinate"] += 1
        assert not re.search(r"\ba [aeiou]|\ban [^aeiou]", english), english
        seen["separate"] += bool(re.search(r" (zu|auf|an|ein|ab|weg)[.?,]", german))
        seen["compound"] += any(noun.singular in words for noun in COMPOUNDS)
        seen["object first"] += german.startswith(("Den ", "Dem ", "Einen ", "Meinen ", "Diesen "))
    assert all(seen[kind] > 500 for kind in ("article", "subordinate", "separate", "compound", "object first")), seen


def test_it_is_a_corpus_like_any_other(tmp_path, monkeypatch):
    monkeypatch.setitem(SIZES, "train", 1000)  # tokenising all of it takes seconds
    bitext = open_bitext(TranslationData("few", "synthetic", bpe_merges=None, cache_dir=str(tmp_path)))
    assert {split: len(bitext.splits[split]) for split in ("validation", "test")} == {"validation": 500, "test": 500}
    raw = bitext.references("test").raw
    assert [bitext.detokenize(bitext.splits["test"].target(i)) for i in range(5)] == [line.lower() for line in raw[:5]]
