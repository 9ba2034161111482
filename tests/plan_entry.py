"""An entry of a plan, whole and right."""

ENTRY = {
    "question": "Does it?",
    "claim": "It does.",
    "refuted_if": "It does not.",
    "tag": "mechanism",
    "primary": True,
    "problem": "marked_mean",
    "variant": "linear",
    "ours": "multimax",
    "controls": ["softmax"],
    "others": [],
    "rates": {"multimax": 0.01, "softmax": 0.01},
    "measure": "error@32",
    "better": "lower",
    "scale": "log",
    "margin": 0.5,
    "first_seed": 100,
    "last_seed": 109,
    "revision": "abc",
}
