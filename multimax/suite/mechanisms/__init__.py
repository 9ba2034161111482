"""Small problems that ask one thing of a row of attention, and models that have nothing else to answer with.

A run takes seconds. What is run is in the plan: ``python -m multimax.suite.planned --help``.
"""

from multimax.suite.mechanisms.marked_mean import MarkedMeanProblem
from multimax.suite.mechanisms.max_retrieval import MaxRetrievalProblem
from multimax.suite.mechanisms.problem import MechanismRuns, Problem

PROBLEMS: dict[str, Problem] = {problem.name: problem for problem in (MarkedMeanProblem(), MaxRetrievalProblem())}

__all__ = ["PROBLEMS", "MechanismRuns", "Problem"]
