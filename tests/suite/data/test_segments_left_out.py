"""Tokens at the end that fill no segment are counted."""

import pytest

from multimax.suite.data.segments import Blocks, Streams


@pytest.mark.parametrize("num_tokens", [41, 58, 79, 100])
def test_what_no_epoch_trains_on_is_counted(num_tokens):
    streams, blocks = Streams(num_tokens, 4, 5), Blocks(num_tokens, 4, 5, seed=0)
    for segments, most in ((streams, 4 * 5), (blocks, 5)):
        starts = [start for step in range(segments.steps_per_epoch) for start in segments.starts(step)]
        assert len(set(starts)) == len(starts)
        assert 0 <= segments.left_out.count < most
        assert segments.left_out.total == num_tokens - 1
    trained = 5 * sum(len(streams.starts(step)) for step in range(streams.steps_per_epoch))
    assert trained + streams.left_out.count == num_tokens - 1
