"""What the options ``--reweight...`` say. Needs no fairseq."""

import json
from typing import Any

from multimax import reweight
from multimax.integrations.sites import Site, create_site

FORM = 'a name, or {"name": NAME, "OPTION": value, ...}'


def read_site(arguments: Any, part: str) -> Site:
    """The site of ``encoder``, ``decoder``, ``cross`` or ``output``; raises ValueError for one that cannot exist."""
    option = f"reweight_{part}"
    own = getattr(arguments, option, "")
    text = own or arguments.reweight
    where = f"--{option if own else 'reweight'} {text}".replace("_", "-", 1)
    try:
        site = json.loads(text) if text.startswith("{") else {"name": text}
        if "name" not in site:
            raise ValueError(f"there is no name in it; write {FORM}")
        create_site(site)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{where}: {error}") from None
    if part == "output" and not own and reweight.at_the_output(site["name"]) != site["name"]:
        return {"name": "softmax"}
    return site
