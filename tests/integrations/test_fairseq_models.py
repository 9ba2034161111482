"""The registry's functions in fairseq's models: with each, decoding computes the same as training."""

from argparse import Namespace

import pytest
import torch
from function_kinds import KINDS

pytest.importorskip("fairseq", reason="the extra 'fairseq' is not installed")

from fairseq.criterions.label_smoothed_cross_entropy import LabelSmoothedCrossEntropyCriterion
from fairseq.models.fairseq_incremental_decoder import FairseqIncrementalDecoder
from fairseq.models.transformer import TransformerModel
from fairseq.optim.adam import FairseqAdamConfig
from fairseq.sequence_generator import SequenceGenerator

from multimax import reweight
from multimax.integrations.fairseq.training import ReweightedAdam, ReweightedLoss
from tests.integrations.fairseq_models import batch, dictionary, language_model, task, transformer

FUNCTIONS = KINDS


def logits(model, sample):
    return model(**sample["net_input"])[0]


def test_softmax_is_fairseqs_own_model():
    """The same seed draws the same weights, and other code computes the same from them, in training mode too."""
    ours, theirs = transformer(std=None), transformer(TransformerModel, std=None)
    assert {name: p.shape for name, p in ours.named_parameters()} == {n: p.shape for n, p in theirs.named_parameters()}
    for mode in (False, True):
        torch.testing.assert_close(logits(ours.train(mode), batch()), logits(theirs.train(mode), batch()))


def test_language_model_with_softmax_is_fairseqs_own():
    from fairseq.models.transformer_lm import TransformerLanguageModel

    ours = language_model(reweight="softmax")
    arguments = ours.decoder.args
    theirs = TransformerLanguageModel.build_model(arguments, task())
    theirs.load_state_dict(ours.state_dict())
    tokens = batch()["net_input"]["src_tokens"]
    torch.testing.assert_close(ours(tokens)[0], theirs.eval()(tokens)[0])
    assert all(layer.normalize_before for layer in ours.decoder.layers)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_seed_draws_the_same_for_every_function(name):
    drawn, softmaxs = transformer(std=None, reweight=name).state_dict(), transformer(std=None).state_dict()
    for key, value in softmaxs.items():
        torch.testing.assert_close(drawn[key], value, rtol=0, atol=0)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_function_is_at_every_site(name):
    """The function at each site changes the logits, and the one at the output gives the probabilities."""
    output = name if reweight.get(name).has_loss else "softmax"
    sample, everywhere = batch(), transformer(reweight=name, reweight_output=output)
    for part in ("encoder", "decoder", "cross"):
        other = transformer(reweight=name, **{f"reweight_{part}": "entmax15" if name == "sparsemax" else "sparsemax"})
        other.load_state_dict(everywhere.state_dict(), strict=False)
        assert not torch.allclose(logits(other, sample), logits(everywhere, sample))
    probabilities = everywhere.get_normalized_probs((logits(everywhere, sample), None), log_probs=False)
    torch.testing.assert_close(probabilities, everywhere.output(logits(everywhere, sample)))
    logarithms = everywhere.get_normalized_probs((logits(everywhere, sample), None), log_probs=True)
    torch.testing.assert_close(logarithms.exp(), probabilities)
    assert logarithms.isfinite().all()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_incremental_forward_is_the_full_one(name):
    model, inputs = transformer(reweight=name), batch()["net_input"]
    whole = logits(model, {"net_input": inputs})
    encoded = model.encoder(inputs["src_tokens"], src_lengths=inputs["src_lengths"])
    state = {}
    for i in range(whole.shape[1]):
        tokens = inputs["prev_output_tokens"][:, : i + 1]
        step, _ = model.decoder(tokens, encoder_out=encoded, incremental_state=state)
        live = tokens[:, i] != 1
        torch.testing.assert_close(step[live, 0], whole[live, i], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_incremental_forward_of_the_language_model_is_the_full_one(name):
    model, tokens, state = language_model(reweight=name), batch()["net_input"]["prev_output_tokens"], {}
    whole = model(tokens)[0]
    for i in range(whole.shape[1]):
        step, _ = model.decoder(tokens[:, : i + 1], incremental_state=state)
        live = tokens[:, i] != 1
        torch.testing.assert_close(step[live, 0], whole[live, i], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_beam_search_with_and_without_incremental_state_finds_the_same(name):
    model = transformer(reweight=name).double()

    def hypotheses(incremental):
        generator = SequenceGenerator([model], dictionary(), beam_size=4, max_len_a=1.2, max_len_b=6)
        generator.model.has_incremental = incremental
        return [
            [(h["tokens"].tolist(), h["score"].item()) for h in row] for row in generator.generate([model], batch())
        ]

    assert issubclass(type(model.decoder), FairseqIncrementalDecoder)
    for cached, full in zip(hypotheses(True), hypotheses(False), strict=True):
        assert [tokens for tokens, _ in cached] == [tokens for tokens, _ in full]
        assert [score for _, score in cached] == pytest.approx([score for _, score in full], abs=1e-4)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_padding_changes_nothing(name):
    """The function gets the mask as an argument. With scores of -inf instead, this would not hold for ev-softmax."""
    model, sample = transformer(reweight=name), batch()
    whole = logits(model, sample)
    for i, (length, target_length) in enumerate(zip((7, 4, 5), (6, 3, 5), strict=True)):
        inputs = sample["net_input"]
        alone = model(
            inputs["src_tokens"][i : i + 1, -length:],
            inputs["src_lengths"][i : i + 1],
            inputs["prev_output_tokens"][i : i + 1, :target_length],
        )[0]
        torch.testing.assert_close(alone[0], whole[i, :target_length], rtol=1e-4, atol=1e-4)


def criterion(kind, smoothing):
    return kind(Namespace(target_dictionary=dictionary()), sentence_avg=False, label_smoothing=smoothing)


@pytest.mark.parametrize("name", ["softmax", "multimax"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_of_a_positive_function_is_fairseqs(name, smoothing):
    model = transformer(reweight=name).train()
    theirs = criterion(LabelSmoothedCrossEntropyCriterion, smoothing)(model, batch())
    ours = criterion(ReweightedLoss, smoothing)(model, batch())
    torch.testing.assert_close(ours[0], theirs[0])
    torch.testing.assert_close(ours[2]["nll_loss"], theirs[2]["nll_loss"])
    assert ours[1] == theirs[1] == 14


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if reweight.get(name).has_loss])
def test_the_loss_trains_every_function_at_the_output(name):
    """The loss is lowest with all of the weight on the targets, and a few optimiser steps lower it."""
    model = transformer(std=None, reweight=name, reweight_output=name).train()
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    losses = []
    for _ in range(8):
        loss, _, logged = criterion(ReweightedLoss, 0.0)(model, batch())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        assert torch.isfinite(logged["nll_loss"])
    assert losses[-1] < losses[0]


def test_a_cross_entropy_of_zeros_is_refused():
    model = transformer(reweight="sparsemax", reweight_output="sparsemax").train()
    with pytest.raises(ValueError, match="set --criterion multimax_loss"):
        criterion(LabelSmoothedCrossEntropyCriterion, 0.1)(model, batch())


def test_a_function_with_zeros_leaves_the_output_at_softmax_unless_asked():
    assert type(transformer(reweight="entmax15").output) is reweight.Softmax
    assert type(transformer(reweight="entmax15", reweight_output="sparsemax").output) is reweight.Sparsemax
    assert type(transformer(reweight="multimax").output) is reweight.MultiMax


def test_options_of_a_function():
    model = transformer(reweight='{"name": "multimax", "order": 1}', reweight_cross="softmax")
    assert model.output.order == 1
    assert model.encoder.layers[0].self_attn.reweight.order == 1
    assert type(model.decoder.layers[0].encoder_attn.reweight) is reweight.Softmax


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reweight": "multimix"}, r"--reweight multimix: .*did you mean 'multimax'"),
        ({"reweight_cross": '{"name": "multimax", "oder": 1}'}, r"--reweight-cross .*did you mean 'order'"),
        ({"reweight_output": '{"order": 1}'}, r"--reweight-output .*there is no name in it"),
        ({"reweight": "{multimax"}, r"--reweight \{multimax: .*property name"),
    ],
)
def test_a_mistake_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        transformer(**options)


def adam(parameters, weight_decay):
    return ReweightedAdam(FairseqAdamConfig(adam_betas="(0.9, 0.98)", weight_decay=weight_decay, lr=[0.1]), parameters)


def test_weight_decay_passes_over_the_functions_parameters():
    model = transformer(reweight="multimax")
    optimizer = adam(model.parameters(), 0.5)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    own = {
        f"{name}.{kind}"
        for name, m in model.named_modules()
        if isinstance(m, reweight.MultiMax)
        for kind in ("ranges", "ts")
    }
    assert len(own) == 14  # two encoder layers, two sites in each of two decoder layers, the output; ranges and ts each
    for name, parameter in model.named_parameters():
        factor = 1 if name in own else 0.95
        torch.testing.assert_close(parameter, before[name] * factor)


def test_the_functions_gradient_is_clipped_by_its_own_norm():
    model = transformer(reweight="multimax")
    optimizer = adam(model.parameters(), 0.0)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    model.output.ts.grad *= 1e4
    count = sum(p.numel() for p in model.parameters())
    total = optimizer.clip_grad_norm(1.0)
    assert total.item() == pytest.approx((count - 4 + 4e8) ** 0.5, rel=1e-4)
    others = [p.grad.norm() for name, p in model.named_parameters() if "reweight" not in name and "output." not in name]
    assert torch.stack(others).norm().item() == pytest.approx(1, rel=1e-4)


def test_parameters_flattened_into_one_are_refused():
    with pytest.raises(ValueError, match="--fp16-no-flatten-grads"):
        adam([torch.nn.Parameter(torch.zeros(10))], 0.1)
