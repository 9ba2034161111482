"""The words of the synthetic corpus: what ``german_grammar`` builds its sentences from."""

from dataclasses import dataclass

NOMINATIVE, ACCUSATIVE, DATIVE = range(3)
MASCULINE, FEMININE, NEUTER = "m", "f", "n"
PERSON, ANIMAL, THING, OPENABLE = "person", "animal", "thing", "openable"
PEOPLE, LIVING = (PERSON,), (PERSON, ANIMAL)
THINGS, ANYTHING = (THING, OPENABLE), (PERSON, ANIMAL, THING, OPENABLE)


@dataclass(frozen=True)
class Noun:
    """A noun in both languages. ``weak`` ones end in -n or -en in all cases but the nominative singular."""

    kind: str
    gender: str
    singular: str
    plural: str
    english: str
    english_plural: str
    weak: bool = False

    def german(self, case: int, plural: bool) -> str:
        if plural:
            return self.plural + ("n" if case == DATIVE and not self.plural.endswith(("n", "s")) else "")
        return self.plural if self.weak and case != NOMINATIVE else self.singular


@dataclass(frozen=True)
class Verb:
    """A verb in both languages, in the third person.

    ``prefix`` is one that separates. ``forms`` are the present singular, infinitive (also the present plural) and
    participle without it. ``english`` are the base form, present singular and past, ``particle`` stands behind them.
    """

    forms: tuple[str, str, str]
    english: tuple[str, str, str]
    prefix: str = ""
    particle: str = ""
    case: int | None = None  # of the object; None: no object
    subjects: tuple[str, ...] = PEOPLE
    objects: tuple[str, ...] = ()
    recipient: bool = False  # whether a person in the dative stands before the object
    sein: bool = False  # whether the perfect is formed with sein instead of haben


@dataclass(frozen=True)
class Adjective:
    stem: str  # before an ending
    english: str
    kinds: tuple[str, ...]


def _noun(kind: str, row: str) -> Noun:
    gender, singular, plural, english, english_plural = row.split()
    return Noun(kind, gender, singular, plural, english, english_plural)


PERSONS = [
    _noun(PERSON, "m Mann Männer man men"),
    _noun(PERSON, "f Frau Frauen woman women"),
    _noun(PERSON, "n Kind Kinder child children"),
    _noun(PERSON, "m Lehrer Lehrer teacher teachers"),
    _noun(PERSON, "f Ärztin Ärztinnen doctor doctors"),
    _noun(PERSON, "n Mädchen Mädchen girl girls"),
    Noun(PERSON, MASCULINE, "Junge", "Jungen", "boy", "boys", weak=True),
    Noun(PERSON, MASCULINE, "Nachbar", "Nachbarn", "neighbour", "neighbours", weak=True),
]
ANIMALS = [
    _noun(ANIMAL, "m Hund Hunde dog dogs"),
    _noun(ANIMAL, "f Katze Katzen cat cats"),
    _noun(ANIMAL, "n Pferd Pferde horse horses"),
    _noun(ANIMAL, "m Vogel Vögel bird birds"),
]
HEADS = {  # nouns that also end compounds
    head.singular: head
    for head in (
        _noun(OPENABLE, "f Tür Türen door doors"),
        _noun(OPENABLE, "n Fenster Fenster window windows"),
        _noun(OPENABLE, "m Schrank Schränke cupboard cupboards"),
        _noun(OPENABLE, "m Koffer Koffer suitcase suitcases"),
        _noun(THING, "m Tisch Tische table tables"),
        _noun(THING, "m Stuhl Stühle chair chairs"),
        _noun(THING, "f Lampe Lampen lamp lamps"),
        _noun(THING, "f Tasche Taschen bag bags"),
        _noun(THING, "n Buch Bücher book books"),
    )
}
OTHER_THINGS = [
    _noun(THING, "m Apfel Äpfel apple apples"),
    _noun(THING, "m Brief Briefe letter letters"),
    _noun(THING, "f Blume Blumen flower flowers"),
    _noun(THING, "m Schlüssel Schlüssel key keys"),
]
MODIFIERS = {  # first part of a compound in German and English, and the heads that it goes with
    ("Küchen", "kitchen"): "Tür Fenster Schrank Tisch Stuhl Lampe",
    ("Garten", "garden"): "Tisch Stuhl Lampe",
    ("Holz", "wooden"): "Tür Schrank Tisch Stuhl",
    ("Glas", "glass"): "Tür Tisch Lampe",
    ("Keller", "basement"): "Tür Fenster Lampe",
    ("Schul", "school"): "Tür Fenster Tasche Buch",
    ("Leder", "leather"): "Koffer Tasche",
}
COMPOUNDS = [
    Noun(
        head.kind,
        head.gender,
        modifier + head.singular.lower(),
        modifier + head.plural.lower(),
        f"{english} {head.english}",
        f"{english} {head.english_plural}",
    )
    for (modifier, english), heads in MODIFIERS.items()
    for head in (HEADS[name] for name in heads.split())
]
NOUNS = [*PERSONS, *ANIMALS, *HEADS.values(), *OTHER_THINGS, *COMPOUNDS]

ADJECTIVES = [
    Adjective("alt", "old", ANYTHING),
    Adjective("klein", "small", ANYTHING),
    Adjective("jung", "young", LIVING),
    Adjective("müd", "tired", LIVING),
    Adjective("schwarz", "black", (ANIMAL, THING, OPENABLE)),
    Adjective("neu", "new", THINGS),
    Adjective("rot", "red", THINGS),
    Adjective("teur", "expensive", THINGS),
    Adjective("schön", "beautiful", ANYTHING),
]


def _verb(german: str, english: str, **more) -> Verb:
    third, infinitive, participle = german.split()
    base, present, past = english.split()
    return Verb((third, infinitive, participle), (base, present, past), **more)


INTRANSITIVE = [
    _verb("schläft schlafen geschlafen", "sleep sleeps slept", subjects=LIVING),
    _verb("wartet warten gewartet", "wait waits waited", subjects=LIVING),
    _verb("spielt spielen gespielt", "play plays played", subjects=LIVING),
    _verb("lacht lachen gelacht", "laugh laughs laughed"),
    _verb(
        "schläft schlafen geschlafen", "fall falls fell", prefix="ein", particle="asleep", subjects=LIVING, sein=True
    ),
    _verb("kommt kommen gekommen", "arrive arrives arrived", prefix="an", sein=True),
    _verb("steht stehen gestanden", "get gets got", prefix="auf", particle="up", subjects=LIVING, sein=True),
    _verb("läuft laufen gelaufen", "run runs ran", prefix="weg", particle="away", subjects=LIVING, sein=True),
]
_ACCUSATIVE = {"case": ACCUSATIVE}
_DATIVE = {"case": DATIVE, "objects": PEOPLE}
TRANSITIVE = [
    _verb("sieht sehen gesehen", "see sees saw", objects=ANYTHING, subjects=LIVING, **_ACCUSATIVE),
    _verb(
        "sucht suchen gesucht", "look looks looked", particle="for", objects=ANYTHING, subjects=LIVING, **_ACCUSATIVE
    ),
    _verb("findet finden gefunden", "find finds found", objects=ANYTHING, subjects=LIVING, **_ACCUSATIVE),
    _verb("kauft kaufen gekauft", "buy buys bought", objects=THINGS, **_ACCUSATIVE),
    _verb("verkauft verkaufen verkauft", "sell sells sold", objects=THINGS, **_ACCUSATIVE),
    _verb("trägt tragen getragen", "carry carries carried", objects=(THING,), **_ACCUSATIVE),
    _verb("liebt lieben geliebt", "love loves loved", objects=LIVING, **_ACCUSATIVE),
    _verb("macht machen gemacht", "open opens opened", prefix="auf", objects=(OPENABLE,), **_ACCUSATIVE),
    _verb("macht machen gemacht", "close closes closed", prefix="zu", objects=(OPENABLE,), **_ACCUSATIVE),
    _verb("ruft rufen gerufen", "call calls called", prefix="an", objects=PEOPLE, **_ACCUSATIVE),
    _verb("lädt laden geladen", "invite invites invited", prefix="ein", objects=PEOPLE, **_ACCUSATIVE),
    _verb("holt holen geholt", "pick picks picked", prefix="ab", particle="up", objects=ANYTHING, **_ACCUSATIVE),
    _verb(
        "wirft werfen geworfen", "throw throws threw", prefix="weg", particle="away", objects=(THING,), **_ACCUSATIVE
    ),
    _verb("schaut schauen geschaut", "look looks looked", prefix="an", particle="at", objects=ANYTHING, **_ACCUSATIVE),
    _verb("hilft helfen geholfen", "help helps helped", **_DATIVE),
    _verb("dankt danken gedankt", "thank thanks thanked", **_DATIVE),
    _verb("folgt folgen gefolgt", "follow follows followed", sein=True, subjects=LIVING, **_DATIVE),
    _verb("hört hören gehört", "listen listens listened", prefix="zu", particle="to", **_DATIVE),
    _verb("gibt geben gegeben", "give gives gave", recipient=True, objects=(THING,), **_ACCUSATIVE),
    _verb("zeigt zeigen gezeigt", "show shows showed", recipient=True, objects=THINGS, **_ACCUSATIVE),
]

PLACES = [
    ("im Garten", "in the garden"),
    ("in der Küche", "in the kitchen"),
    ("vor dem Haus", "in front of the house"),
    ("auf der Straße", "on the street"),
]
