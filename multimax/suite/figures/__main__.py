"""python -m multimax.suite.figures COMMAND RUN...: numbers and figures of trained models' attention."""

import argparse
from importlib import import_module

from multimax.suite.errors import Parser, UserError, install, one_line_errors

COMMANDS = {
    "statistics": (
        "statistics_command",
        "sparsity, multi-modality, score histograms and learned modulators, by layer and head",
    ),
    "maps": ("image_maps", "where one patch of an image looks, layer by layer"),
    "rollout": ("image_maps", "attention followed through all layers of an image classifier"),
    "gradcam": ("image_maps", "which patches of an image speak for its class"),
    "alignment": ("text_maps", "which words a translation looks at, layer by layer"),
    "heads": ("text_maps", "which tokens each head of a language model looks at"),
    "oversmoothing": ("oversmoothing_command", "how alike tokens become, by layer and over training"),
}
"""For each command: the module with the function of that name, and what the command does."""


@one_line_errors
def main() -> None:
    """Analyse trained models and write numbers and figures to RUN/analysis."""
    listed = "\n".join(f"  {name:<14}{what}" for name, (_, what) in COMMANDS.items())
    parser = Parser(
        prog="python -m multimax.suite.figures",
        description=main.__doc__,
        epilog=f"commands, each with its own --help:\n{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help="one of those below")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="RUN ...", help="run folders and options")
    parsed = parser.parse_args()
    try:
        module = import_module(f"multimax.suite.figures.{COMMANDS[parsed.command][0]}")
    except ModuleNotFoundError as error:
        raise UserError(f"figures need the package {error.name}: {install('report')}") from None
    getattr(module, parsed.command)(parsed.arguments)


if __name__ == "__main__":
    main()
