"""What is typed as KEY=VALUE on a command line, in Hydra's grammar (hydra.cc/docs/advanced/override_grammar/basic).

The grammar has ASCII words and gives a meaning to ``=,()[]{}:'"~`` and to numbers. Names of folders may contain all of
these, so the value of a text key is taken literally if the grammar does not read it as text; where something else could
be meant, an error says what to type.
"""

import re
import shlex
from collections.abc import Sequence, Set

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from multimax.suite.errors import UserError

KEY = re.compile(r"(\+\+?|~)?[A-Za-z0-9_$][\w$./@:-]*", re.ASCII)


def quoted(key: str, value: str) -> str:
    """The override that sets ``key`` to this text, whatever it contains."""
    return f"{key}={in_quotes(value)}"


def in_quotes(value: str) -> str:
    """The text quoted for Hydra's grammar."""
    return QuotedString(value, Quote.double).with_quotes()


def parse(override: str) -> Override | None:
    """The override as Hydra parses it; None if it cannot."""
    try:
        return OverridesParser.create().parse_override(override)
    except HydraException:
        return None


def readable(override: str, text_keys: Set[str], sweep: bool = False) -> str:
    """The same override in a form that Hydra reads as it is meant.

    Args:
        text_keys: keys whose value is text.
        sweep: ``a,b`` are two values, as with ``-m``.

    Raises:
        UserError: Hydra cannot read it, which says what to type instead, or it has several values without ``sweep``.
    """
    key, equals, value = override.partition("=")
    parsed = parse(override)
    if not KEY.fullmatch(key) or not (equals or key.startswith("~")):
        raise UserError(f"{override}: this is not KEY=VALUE; --cfg job prints the keys")
    several = parsed is not None and parsed.is_sweep_override()
    if equals and key.lstrip("+") in text_keys and not (sweep and "," in value):
        is_text = parsed is not None and not several and isinstance(parsed.value(), str | None)
        return override if is_text else quoted(key, value)
    as_text = f"as text it is quoted, for Hydra and for the shell: {shlex.quote(quoted(key, value))}"
    if parsed is None:
        raise UserError(f"{override}: Hydra cannot read this value; {as_text}")
    if several and not sweep:
        raise UserError(f"{override}: several values are a sweep, which takes -m; {as_text}")
    return override


def merge(composed: DictConfig, overrides: Sequence[str]) -> None:
    """Change values of a run's stored configuration. Raises UserError for an override that adds or deletes a key."""
    for override in overrides:
        parsed = parse(override)
        if parsed is None or parsed.is_add() or parsed.is_delete():
            raise UserError(f"{override}: a run's configuration takes KEY=VALUE for keys that it has")
        try:
            whole = OmegaConf.select(composed, parsed.key_or_group)
            if isinstance(whole, DictConfig) and not isinstance(parsed.value(), dict):
                keys = ", ".join(f"{parsed.key_or_group}.{key}" for key in map(str, whole))
                raise UserError(f"{override}: a run keeps the choices that it was made with; what can be set is {keys}")
            OmegaConf.update(composed, parsed.key_or_group, parsed.value(), force_add=True)
        except OmegaConfBaseException as error:
            raise UserError(f"{override}: {str(error).splitlines()[0]}") from None
