"""A complete and correct entry of a plan."""

COMPARISON = {
    "question": "Does it?",
    "claim": "It does.",
    "refuted_if": "It does not.",
    "primary": True,
    "ours": "multimax",
    "controls": ["softmax"],
    "margins": {"error@32": 0.5},
    "better": "lower",
    "scale": "log",
}
ENTRY = {
    "tag": "mechanism",
    "problem": "marked_mean",
    "variant": "linear",
    "overrides": [],
    "tuning": [],
    "arms": {},
    "rates": {"multimax": 0.01, "softmax": 0.01},
    "first_seed": 100,
    "last_seed": 109,
    "revision": "abc",
    "comparisons": {"marked": COMPARISON},
}
