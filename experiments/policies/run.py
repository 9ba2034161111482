"""REINFORCE with policies by each function, which the paper suggests in its outlook. Exploratory.

    python experiments/policies/run.py                # writes results.csv and README's table, minutes on one core
    python experiments/policies/run.py --cartpole     # CartPole besides, with gymnasium

The bandit has 20 arms of which four pay 1, the others 0, plus normal noise of 0.5; a policy is a vector of scores and,
with MultiMax, its parameters. At the end: the probability of a good arm, how many good arms have at least .05, and how
many arms are exactly zero.
"""

import argparse
import csv
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from multimax import reweight
from multimax.distributions import Categorical

FUNCTIONS = ("softmax", "sparsemax", "entmax15", "multimax")
SEEDS, STEPS, BATCH, ARMS, GOOD, NOISE = 20, 300, 16, 20, 4, 0.5
UPDATES, CARTPOLE_LIMIT = 30, 200
HERE = Path(__file__).parent
MARK = "<!-- made by run.py: nothing below is typed by hand -->\n"


def bandit(name: str, seed: int) -> dict[str, float]:
    """Scores and parameters by Adam on the mean of log-probability times advantage, BATCH draws a step."""
    torch.manual_seed(seed)
    pays = torch.zeros(ARMS)
    pays[torch.randperm(ARMS)[:GOOD]] = 1
    scores, function = nn.Parameter(0.1 * torch.randn(ARMS)), reweight.create(name)
    optimizer = torch.optim.Adam([scores, *function.parameters()], lr=0.05)
    for _ in range(STEPS):
        policy = Categorical(scores, function)
        arms = policy.sample((BATCH,))
        rewards = pays[arms] + NOISE * torch.randn(BATCH)
        step(optimizer, policy.log_prob(arms), rewards)
    p = Categorical(scores, function).probs.detach()
    return {
        "reward": float(p @ pays),
        "good arms in use": float((p[pays == 1] >= 0.05).sum()),
        "exact zeros": float((p == 0).sum()),
    }


def cartpole(name: str, seed: int) -> dict[str, float]:
    """Gymnasium's CartPole-v1, BATCH episodes an update. Steps survived: over the last five updates, and over all."""
    import gymnasium

    torch.manual_seed(seed)
    environments = gymnasium.make_vec("CartPole-v1", BATCH, "vector_entry_point", max_episode_steps=CARTPOLE_LIMIT)
    network, function = nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, 2)), reweight.create(name)
    optimizer = torch.optim.Adam([*network.parameters(), *function.parameters()], lr=0.01)
    means = []
    for update in range(UPDATES):
        state, _ = environments.reset(seed=1000 * seed + update)
        going, states, actions, live = torch.ones(BATCH, dtype=torch.bool), [], [], []
        while going.any():
            states.append(torch.tensor(state))
            with torch.no_grad():
                actions.append(torch.multinomial(function(network(states[-1])), 1).squeeze(-1))
            live.append(going)
            state, _, terminated, truncated, _ = environments.step(actions[-1].numpy())
            going = going & ~torch.from_numpy(terminated | truncated)
        lives = torch.stack(live)  # [steps, BATCH]; an episode that is over is played again, and not counted
        left = lives.sum(0) - torch.arange(len(lives)).unsqueeze(-1)
        policy = Categorical(network(torch.stack(states)[lives]), function)
        step(optimizer, policy.log_prob(torch.stack(actions)[lives]), ((1 - 0.99**left) / 0.01)[lives])
        means.append(float(lives.sum()) / BATCH)
    return {"steps survived": sum(means[-5:]) / 5, "steps survived on the way": sum(means) / UPDATES}


def step(optimizer: torch.optim.Optimizer, log_probs: Tensor, returns: Tensor) -> None:
    advantages = (returns - returns.mean()) / (returns.std() + 1e-6) if len(returns) > 1 else returns
    optimizer.zero_grad()
    (-(log_probs * advantages).mean()).backward()
    optimizer.step()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--cartpole", action="store_true", help="CartPole besides: needs gymnasium")
    parser.add_argument("--output", type=Path, default=HERE, help="folder of results.csv and README.md")
    arguments = parser.parse_args()
    tasks: dict[str, Callable[[str, int], dict[str, float]]] = {"bandit": bandit}
    if arguments.cartpole:
        tasks["cartpole"] = cartpole
    torch.set_num_threads(1)
    rows = [
        {"task": task, "function": name, "seed": seed, "measure": measure, "value": f"{value:.6g}"}
        for task, play in tasks.items()
        for name in FUNCTIONS
        for seed in range(arguments.seeds)
        for measure, value in play(name, seed).items()
    ]
    with (arguments.output / "results.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    readme = arguments.output / "README.md"
    text = readme.read_text().partition(MARK)[0] if readme.exists() else ""
    readme.write_text(text + MARK + "\n" + table(rows))


def table(rows: list[dict[str, object]]) -> str:
    """Mean and standard deviation over the seeds, one row for each task and measure."""
    values: dict[tuple[object, object], dict[object, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        values[row["task"], row["measure"]][row["function"]].append(float(str(row["value"])))
    lines = [f"| task | measure | {' | '.join(FUNCTIONS)} |", "|---|---|" + "---|" * len(FUNCTIONS)]
    for (task, measure), of in values.items():
        cells = []
        for name in FUNCTIONS:
            found = torch.tensor(of[name])
            cells.append(f"{found.mean():.3g} ± {found.std():.2g}")
        lines.append(f"| {task} | {measure} | {' | '.join(cells)} |")
    seeds = len(next(iter(next(iter(values.values())).values())))
    return "\n".join(lines) + f"\n\nMean ± standard deviation over {seeds} seeds.\n"


if __name__ == "__main__":
    main()
