"""Tab completion of train.py for bash, as a script: python -m multimax.suite.completion > FILE, then source FILE.

Hydra's own completion starts Python, which imports everything, at each press of the key. Here bash has the words: the
choices of each group and the keys of all tasks, as they were when the file was written.
"""

from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from multimax.suite.composition import CONFIGS, group_names, register_groups
from multimax.suite.config import flatten, skeleton
from multimax.suite.errors import one_line_errors
from multimax.suite.tasks import MODULES, task_module

SCRIPT = r"""
_multimax_train() {
  local word="${COMP_WORDS[COMP_CWORD]}"
  [[ " ${COMP_WORDS[*]} " =~ [\ /](train\.py|multimax-train)\  ]] || return
  COMPREPLY=($(compgen -W "$_multimax_words" -- "$word"))
}
COMP_WORDBREAKS=${COMP_WORDBREAKS//=}
complete -o nospace -o default -F _multimax_train python python3 torchrun multimax-train
"""


def words() -> list[str]:
    """``group=choice`` of each group, and ``key=`` of each key of a task."""
    register_groups()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        groups = {group: loader.get_group_options(group) for group in (*group_names(), "hydra/launcher")}
    choices = [f"{group}={choice}" for group, some in groups.items() for choice in some]
    keys = {f"{key}=" for task in MODULES for key, _ in flatten(skeleton(task_module(task).Config))}
    return sorted({*choices, *keys} - {f"{group}=" for group in groups})


@one_line_errors
def main() -> None:
    print(f"_multimax_words='{' '.join(words())}'{SCRIPT}", end="")


if __name__ == "__main__":
    main()
