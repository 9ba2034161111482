import itertools

import numpy as np
import pytest
import torch

from multimax.suite.data.bitext import Pairs
from multimax.suite.data.dictionary import EOS, PAD
from multimax.suite.data.fairseq_data import Sentences
from multimax.suite.data.segments import IGNORED
from multimax.suite.data.token_batches import TokenBatches, collate, eval_batches
from multimax.suite.errors import UserError

MAX_TOKENS = 200


def sentences(lengths, seed: int) -> Sentences:
    random = np.random.default_rng(seed)
    lengths = np.asarray(lengths, dtype=np.int32)
    ids = random.integers(4, 50, lengths.sum()).astype(np.uint16)
    ids[np.cumsum(lengths) - 1] = EOS
    return Sentences(ids, lengths, np.cumsum(lengths) - lengths)


def make_pairs(count: int = 500, longest: int = 40) -> Pairs:
    random = np.random.default_rng(7)
    return Pairs(sentences(random.integers(1, longest, count), 1), sentences(random.integers(2, longest, count), 2))


@pytest.fixture(scope="module")
def pairs():
    return make_pairs()


def test_a_batch_is_filled_up_and_masked(pairs):
    indices = [3, 1, 4]
    batch = collate(pairs, indices)
    assert batch.indices.tolist() == indices
    for row, i in enumerate(indices):
        source, target = pairs.sources[i].tolist(), pairs.targets[i].tolist()
        assert batch.source[row][batch.source_mask[row]].tolist() == source
        assert set(batch.source[row][len(source) :].tolist()) <= {PAD}
        assert batch.targets[row].tolist() == target + [IGNORED] * (batch.targets.shape[1] - len(target))
        assert batch.target[row][: len(target)].tolist() == [EOS, *target[:-1]]
        assert set(batch.target[row][len(target) :].tolist()) <= {PAD}
    assert batch.source.shape[1] == max(len(pairs.sources[i]) for i in indices)
    assert (batch.source.dtype, batch.source_mask.dtype, batch.targets.dtype) == (torch.int64, torch.bool, torch.int64)


def test_an_epoch_has_each_pair_once_and_batches_keep_to_the_limit(pairs):
    batches = TokenBatches(pairs, MAX_TOKENS, seed=0)
    epochs = [
        [batches.batch(epoch * batches.steps_per_epoch + i) for i in range(batches.steps_per_epoch)] for epoch in (0, 1)
    ]
    for epoch in epochs:
        assert sorted(np.concatenate(epoch)) == list(range(len(pairs)))
        for indices in epoch:
            longest = max(pairs.sources.lengths[indices].max(), pairs.targets.lengths[indices].max())
            assert len(indices) * longest <= MAX_TOKENS
    assert {tuple(b) for b in epochs[0]} == {tuple(b) for b in epochs[1]}
    assert [tuple(b) for b in epochs[0]] != [tuple(b) for b in epochs[1]]
    # At most the last batch formed.
    assert sum(len(indices) > 8 and len(indices) % 8 > 0 for indices in epochs[0]) <= 1


def test_batches_are_full_of_sentences_of_like_lengths():
    random = np.random.default_rng(7)
    lengths = random.integers(3, 40, 5000)
    translated = np.maximum(2, np.round(lengths * random.normal(1, 0.15, 5000)))  # about as long as the source
    pairs = Pairs(sentences(lengths, 1), sentences(translated, 2))
    batches = TokenBatches(pairs, 1000, seed=0).batches
    for side, least in ((pairs.sources.lengths, 0.98), (pairs.targets.lengths, 0.85)):
        assert side.sum() / sum(len(indices) * side[indices].max() for indices in batches) > least
    assert np.mean([len(indices) for indices in batches]) > 20


def test_seeds_decide_which_pairs_meet_and_in_which_order(pairs):
    def first(seed):
        batches = TokenBatches(pairs, MAX_TOKENS, seed)
        return [batches.batch(step).tolist() for step in range(batches.steps_per_epoch)]

    assert first(0) == first(0)
    assert sorted(map(sorted, first(0))) != sorted(map(sorted, first(1)))


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("micro_batches", [1, 2])
def test_parts_make_up_the_global_batch(world, micro_batches):
    # With so few tokens, many batches have fewer rows than there are parts.
    pairs = make_pairs(120)
    batches = TokenBatches(pairs, 45, seed=3)
    parts = [
        list(
            itertools.islice(
                batches.train_batches(5, rank=rank, world=world, micro_batches=micro_batches), batches.steps_per_epoch
            )
        )
        for rank in range(world)
    ]
    fewer = 0
    for step in range(batches.steps_per_epoch):
        own = [micro for rank in range(world) for micro in parts[rank][step]]
        assert len(own) == world * micro_batches
        assert all(len(micro.source) for micro in own)
        whole = batches.batch(5 + step)
        scored = [micro.indices[(micro.targets != IGNORED).any(1)].tolist() for micro in own]
        assert sorted(itertools.chain(*scored)) == sorted(whole.tolist())
        tokens = sum(int((micro.targets != IGNORED).sum()) for micro in own)
        assert tokens == pairs.targets.lengths[whole].sum()
        fewer += len(whole) < len(own)
    assert fewer or world * micro_batches == 1


def test_a_run_goes_on_where_it_was(pairs):
    batches = TokenBatches(pairs, MAX_TOKENS, seed=0)
    whole = list(itertools.islice(batches.train_batches(0), 2 * batches.steps_per_epoch))
    later = next(TokenBatches(pairs, MAX_TOKENS, seed=0).train_batches(batches.steps_per_epoch + 3))
    assert all(torch.equal(a, b) for a, b in zip(later[0], whole[batches.steps_per_epoch + 3][0], strict=True))


def test_pairs_that_do_not_fit_are_left_out_and_counted(pairs):
    batches = TokenBatches(pairs, 30, seed=0)
    fit = np.flatnonzero(np.maximum(pairs.sources.lengths, pairs.targets.lengths) <= 30)
    assert sorted(np.concatenate(batches.batches)) == fit.tolist()
    assert batches.left_out.count == len(pairs) - len(fit) > 0
    with pytest.raises(UserError, match="a batch of 1 tokens holds no sentence pair: the shortest of 500 pairs has"):
        TokenBatches(pairs, 1, seed=0)


@pytest.mark.parametrize("world", [1, 2, 3])
def test_evaluation_sees_each_pair_once(pairs, world):
    # Pairs longer than the limit are seen too, each in a batch of its own.
    batches = [batch for rank in range(world) for batch in eval_batches(pairs, 30, rank=rank, world=world)]
    assert sorted(i for batch in batches for i in batch.indices.tolist()) == list(range(len(pairs)))
    for batch in batches:
        size = len(batch.source) * max(batch.source.shape[1], batch.target.shape[1])
        assert size <= 30 or len(batch.source) == 1
