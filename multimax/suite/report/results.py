"""Every table and figure under ``results/``, made from its runs, claims and plan."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from multimax.suite.figures.figure1 import figure1, idea
from multimax.suite.figures.figure2 import figure2
from multimax.suite.measures.three_scores import fit_multimax
from multimax.suite.report.ablation_table import ablation_table
from multimax.suite.report.claim_tables import claim_tables
from multimax.suite.report.claims import read_claims
from multimax.suite.report.cost_table import cost_table
from multimax.suite.report.dashboard_figures import dashboard_figures
from multimax.suite.report.defect_table import defect_table
from multimax.suite.report.difference_figures import difference_figures
from multimax.suite.report.exploratory import exploratory_figures, exploratory_table
from multimax.suite.report.figure1_table import figure1_table
from multimax.suite.report.findings import findings_table
from multimax.suite.report.findings_figures import findings_figures
from multimax.suite.report.function_table import function_table
from multimax.suite.report.measured_figures import measured_figures, oversmoothing_figures
from multimax.suite.report.outputs import Output, picture
from multimax.suite.report.planned_tables import planned_table
from multimax.suite.report.step_overhead import step_overhead
from multimax.suite.report.tables import tables
from multimax.suite.runs import Run, read_runs


def all_tables(results: Path) -> Iterator[Output]:
    """The findings, each experiment with runs, and the claims, ablation, defects and costs. Raises UserError.

    For a user's own folder, with records or a plan but no claims, only what does not depend on claims.
    """
    records, path, planned = read_runs(results / "runs"), results / "claims.yaml", of_plan(results)
    claims = None if is_own(results, records) else read_claims(path)
    yield from findings_table(*planned)
    yield from planned_table("rates", *planned)
    yield from planned_table("convergence", *planned)
    if claims is None:
        yield from tables(records)
        return
    for name in ("trade_off", "equal_rates", "modulators"):
        yield from planned_table(name, *planned)
    yield from exploratory_table(results / "exploratory")
    yield from tables(records)
    yield from claim_tables(claims, path, records)
    yield from ablation_table(records)
    points = claims.figure1
    yield figure1_table(fit_multimax(points["k"], *points["multimax_weights"]), points, path)
    yield defect_table(records)
    yield cost_table()
    yield function_table()
    yield step_overhead(results / "benchmarks")


def all_figures(results: Path) -> Iterator[Output]:
    """The findings, differences by task, what was measured, a dashboard, and the paper's figures. Raises UserError."""
    records, path = read_runs(results / "runs"), results / "claims.yaml"
    yield from findings_figures(*of_plan(results))
    if is_own(results, records):
        yield from difference_figures(records)
        yield from measured_figures(records)
        return
    yield from exploratory_figures(results / "exploratory")
    yield from difference_figures(records)
    yield from oversmoothing_figures(records)
    yield from measured_figures(records)
    yield from dashboard_figures(records)
    points = read_claims(path).figure1
    multimax = fit_multimax(points["k"], *points["multimax_weights"])
    yield picture("figure1", *figure1(multimax, points["k"], points["multi_modality"]), sources=[path])
    yield picture("idea", *idea(multimax), sources=[path])
    yield picture("figure2", *figure2())


def of_plan(results: Path) -> tuple[Path, Path]:
    """The plan and the folder of its runs."""
    return results / "plan.yaml", results / "planned"


def is_own(results: Path, records: Sequence[Run]) -> bool:
    """Whether this is a user's own folder: records or a plan, and no claims."""
    return (bool(records) or (results / "plan.yaml").is_file()) and not (results / "claims.yaml").is_file()
