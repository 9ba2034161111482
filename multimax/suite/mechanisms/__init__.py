"""Small problems that each ask one thing of a row of weights, and models that depend only on those weights.

A run takes seconds. Runs that decide something are in the plan; everything else is exploratory:
``python -m multimax.suite.planned --help``.
"""

from multimax.suite.mechanisms.associative_recall import AssociativeRecallProblem
from multimax.suite.mechanisms.label_noise import LabelNoiseProblem
from multimax.suite.mechanisms.marked_mean import MarkedMeanProblem
from multimax.suite.mechanisms.max_retrieval import MaxRetrievalProblem
from multimax.suite.mechanisms.problem import MechanismRuns, Problem
from multimax.suite.mechanisms.set_prediction import SetPredictionProblem

PROBLEMS: dict[str, Problem] = {
    problem.name: problem
    for problem in (
        MarkedMeanProblem(),
        MaxRetrievalProblem(),
        AssociativeRecallProblem(),
        SetPredictionProblem(),
        LabelNoiseProblem(),
    )
}
VARIANTS = {
    f"{name}_{variant}" if variant else name: MechanismRuns(problem, variant)
    for name, problem in PROBLEMS.items()
    for variant in problem.variants
}
"""Every variant of every problem, by the name under which it can be explored."""

__all__ = ["PROBLEMS", "VARIANTS", "MechanismRuns", "Problem"]
