"""The released decoding is compared with runs that differ in nothing else."""

from dataclasses import asdict

from written_runs import write_run

from multimax.suite.composition import compose_configuration, typed
from multimax.suite.report.defect_table import released_decoding


def records(folder, bleu, *overrides):
    """Made-up records of translation runs, one for each value, with seeds from 0 on."""
    config = asdict(typed(compose_configuration(["task=mt", *overrides])))
    return [
        write_run(
            folder / f"{'-'.join(overrides)}-{seed}", config | {"seed": seed}, {"metrics": {"test_bleu@best": value}}
        )
        for seed, value in enumerate(bleu)
    ]


def test_runs_are_paired_by_seed_and_setting(tmp_path):
    released = records(tmp_path, [1.0, 2.0, 3.0], "model.as_released=true")
    here = records(tmp_path, [2.0, 4.0])
    others = records(tmp_path, [9.0, 9.0], "optimizer.clip_norm=77") + records(tmp_path, [9.0, 9.0], "reweight=softmax")
    ((defect, used),) = released_decoding([*others, *released, *here])
    assert (defect.released, defect.here) == ("1.00 2.00", "2.00 4.00")
    assert "released less here -1.50, 95% interval -7.85 to +4.85" in defect.measured
    assert used == [*released[:2], *here]


def test_without_runs_to_compare_there_is_no_line(tmp_path):
    assert not [*released_decoding(records(tmp_path, [1.0], "model.as_released=true"))]
    assert not [*released_decoding(records(tmp_path, [1.0]))]
