"""python scripts/wandb_dashboard.py --entity NAME: a W&B workspace that compares a task's runs by their reweighting.

Loss and metrics over steps, one line for each function: the mean over seeds, in a band from the least to the greatest.
A table of final metrics: the runs' own, grouped by function, where a group opens into its seeds. SegLU's parameters,
sparsity and multi-modality over steps. Samples and attention pictures.
"""

import json
from typing import Any

from multimax.suite.errors import Parser, UserError, install, one_line_errors
from multimax.suite.loggers.dashboard import METRICS, curves


@one_line_errors
def main() -> None:
    parser = Parser(prog="wandb_dashboard.py", description=__doc__.splitlines()[0].split(": ", 1)[1])
    parser.add_argument("--task", choices=sorted(METRICS), default="deit", help="whose runs (default deit)")
    parser.add_argument("--group", help="runs of this group alone: an experiment, or TASK_SCALE")
    parser.add_argument("--project", default="multimax", help="as logger.project (default multimax)")
    parser.add_argument("--entity", help="the user or team that has the project; needed unless --dry-run")
    parser.add_argument("--dry-run", action="store_true", help="print the workspace as JSON and save nothing")
    arguments = parser.parse_args()
    try:
        import wandb_workspaces  # noqa: F401
    except ModuleNotFoundError as error:
        raise UserError(f"no package {error.name}: {install('wandb')}") from None
    if arguments.entity is None and not arguments.dry_run:
        raise UserError("--entity: say which user or team on W&B has the project")
    made = workspace(arguments.entity or "ENTITY", arguments.project, arguments.task, arguments.group)
    if arguments.dry_run:
        print(json.dumps(made._to_model().model_dump(mode="json", by_alias=True, exclude_none=True), indent=1))
        return
    from multimax.suite.loggers.wandb_mirror import require_server

    require_server()
    try:
        made.save()
    except Exception as error:  # of wandb, requests or its server
        raise UserError(f"W&B refused the workspace: {str(error).splitlines()[0]}") from None
    print(made.url)


def workspace(entity: str, project: str, task: str, group: str | None):
    """The workspace of one task, not saved yet."""
    import wandb_workspaces.reports.v2 as reports
    import wandb_workspaces.workspaces as workspaces

    grouped: dict[str, Any] = {
        "groupby": reports.Config("function"),
        "groupby_aggfunc": "mean",
        "groupby_rangefunc": "minmax",
        "max_runs_to_show": 100,
    }

    def curve(title: str, pattern: str):
        return reports.LinePlot(title=title, x="Step", metric_regex=pattern, **grouped)

    def section(name: str, panels: list, is_open: bool = True):
        return workspaces.Section(name=name, panels=panels, is_open=is_open)

    panels = {name: [curve(*of) for of in shown.items()] for name, shown in curves(task).items()}
    final = reports.BarPlot(title=f"{next(iter(METRICS[task]))}, last step", metrics=["final/score"], **grouped)
    filters = [workspaces.Config("task") == task]
    if group is not None:
        filters.append(workspaces.Metric("Group") == group)
    return workspaces.Workspace(
        entity=entity,
        project=project,
        name=f"Reweightings compared: {group or task}",
        sections=[
            section("Loss and metrics", panels.pop("Loss and metrics")),
            section("Final metrics", [final, reports.RunComparer(diff_only="split")]),
            *(section(name, shown) for name, shown in panels.items()),
            section("Samples", [reports.MediaBrowser(media_keys=["samples/pictures", "samples/texts"])], False),
            section("Attention", [reports.MediaBrowser(media_keys=["samples/attention"])], False),
        ],
        settings=workspaces.WorkspaceSettings(x_axis="Step", max_runs=100),
        runset_settings=workspaces.RunsetSettings(
            filters=workspaces.And(*filters),
            groupby=[workspaces.Config("function")],
            pinned_columns=["run:displayName", "config:function", "config:seed", "summary:final/score"],
        ),
    )


if __name__ == "__main__":
    main()
