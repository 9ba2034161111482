# ruff: noqa: E402 - transformers may not be installed
"""Models of transformers with a reweighting in their attention: every family trains, saves, loads and generates."""

import copy
import importlib.util
import json
import re

import pytest
import torch

transformers = pytest.importorskip("transformers", reason="needs the extra transformers")

from transformers_models import DECODER, FAMILIES, LENGTH, VOCABULARY, tokens

import multimax
import multimax.integrations.transformers as ours
from multimax import reweight
from multimax.convert.find import find

GENERATING = [name for name, family in FAMILIES.items() if family.generates]


def build(name, function="multimax", **options):
    family = FAMILIES[name]
    cls = ours.reweighted(family.model_class(), function, **options)
    config = family.make_config()
    model = cls.from_config(config)
    generator = torch.Generator().manual_seed(0)
    if "init" not in options:
        for parameter in own(model).values():
            parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def own(model):
    return {path: p for path, p in model.named_parameters() if multimax.is_reweighting(p)}


def attention_modules(model):
    return [site.module for site in find(model) if site.by == "registry"]


def outputs(model, name):
    found = model(**FAMILIES[name].inputs())
    return {key: value for key, value in found.items() if isinstance(value, torch.Tensor) and value.is_floating_point()}


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_is_the_stock_one_at_the_start_trains_is_saved_and_loads_to_the_bit(name, tmp_path):
    family = FAMILIES[name]
    config = family.make_config()
    stock = family.model_class()(config).eval()
    model = build(name, init="zero")
    model.load_state_dict(stock.state_dict(), strict=False)
    expected = outputs(stock, name)
    assert expected
    for key, found in outputs(model, name).items():
        torch.testing.assert_close(found, expected[key], rtol=1e-5, atol=1e-5, msg=lambda m, key=key: f"{key}: {m}")

    sites = attention_modules(model)
    assert {id(p) for m in sites for p in m.reweight.parameters()} == {id(p) for p in own(model).values()}
    for module in sites:
        module.reweight.load_state_dict(reweight.create("multimax").state_dict())
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.AdamW(multimax.parameter_groups(model.train(), 0.05), lr=1e-2)
    for _ in range(3):
        found = outputs(model, name)
        (found["loss"] if "loss" in found else sum(v.square().mean() for v in found.values())).backward()
        assert multimax.clip_gradients(model, 1.0).isfinite()
        optimizer.step()
        optimizer.zero_grad()
    for path in own(model):
        assert not torch.equal(model.state_dict()[path], before[path]), path

    model.eval().save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["reweight"] == {"name": "multimax", "init": "zero"}
    loaded = ours.from_pretrained(family.model_class(), tmp_path)
    for path, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[path], tensor), path
    for key, value in outputs(loaded, name).items():
        assert torch.equal(value, outputs(model, name)[key])


@pytest.mark.parametrize("name", GENERATING)
def test_a_cache_changes_nothing(name):
    """Greedy search with and without a cache, left-padded for decoders, compared by the logits of every step."""
    model, inputs = build(name), FAMILIES[name].generates()
    options = {"max_new_tokens": 5, "do_sample": False, "return_dict_in_generate": True, "output_logits": True}
    cached, uncached = (model.generate(**inputs, **options, use_cache=flag) for flag in (True, False))
    torch.testing.assert_close(torch.stack(cached.logits), torch.stack(uncached.logits), rtol=1e-4, atol=1e-4)


def test_static_caches_and_beams():
    model, inputs = build("llama"), FAMILIES["llama"].generates()
    options = {"max_new_tokens": 5, "do_sample": False, "return_dict_in_generate": True, "output_logits": True}
    expected = model.generate(**inputs, **options)
    static = model.generate(**inputs, **options, cache_implementation="static", disable_compile=True)
    torch.testing.assert_close(torch.stack(static.logits), torch.stack(expected.logits), rtol=1e-4, atol=1e-4)
    beams = [model.generate(**inputs, num_beams=3, max_new_tokens=4, use_cache=flag) for flag in (True, False)]
    assert torch.equal(*beams)


@pytest.mark.parametrize("function", reweight.available())
def test_padding_and_the_future_move_nothing(function):
    """For every function, with grouped heads and a sliding window."""
    model, row = build("mistral", function), tokens(1)
    expected = model(row).logits
    torch.testing.assert_close(model(row[:, :-2]).logits, expected[:, :-2], rtol=1e-4, atol=1e-4)
    for left in (1, 4):
        ids = torch.cat([torch.zeros(1, left, dtype=torch.long), row, torch.zeros(1, 5 - left, dtype=torch.long)], 1)
        positions = torch.arange(ids.shape[1])[None] - left
        live = (positions >= 0) & (positions < LENGTH)
        found = model(ids, attention_mask=live.long(), position_ids=positions.clamp(min=0)).logits
        torch.testing.assert_close(found[live], expected[0], rtol=1e-4, atol=1e-4)


def test_packed_sequences_do_not_see_each_other():
    model, ids = build("llama"), tokens(1, 8)
    positions = torch.tensor([[0, 1, 2, 0, 1, 2, 3, 4]])
    found = model(ids, position_ids=positions, use_cache=False).logits
    for part in (slice(0, 3), slice(3, 8)):
        torch.testing.assert_close(found[:, part], model(ids[:, part]).logits, rtol=1e-4, atol=1e-4)
    module = attention_modules(model)[0]
    q = torch.zeros(1, 4, 8, 8)
    with pytest.raises(ValueError, match="packed sequences need position_ids"):
        ours.attend(module, q, q, q, None, cu_seq_lens_q=torch.tensor([0, 3, 8]))


def test_a_model_that_asks_for_sdpa_by_name_gets_what_sdpa_needs():
    """Gemma 4 leaves out queries whose outputs are not needed, except where "sdpa" gets no mask."""
    layers = {"num_hidden_layers": 4, "layer_types": ["sliding_attention", "full_attention"] * 2}
    small = {"vocab_size_per_layer_input": VOCABULARY, "hidden_size_per_layer_input": 8, "global_head_dim": 8}
    options = {key: value for key, value in DECODER.items() if key != "num_hidden_layers"}
    config = transformers.Gemma4TextConfig(**options, **layers, **small, num_kv_shared_layers=2)
    model = ours.reweighted(transformers.Gemma4ForCausalLM, "multimax")(config).eval()
    torch.testing.assert_close(model(tokens(), logits_to_keep=3).logits, model(tokens()).logits[:, -3:])


def test_gpt_oss_sinks_take_weight_from_the_keys():
    model = build("gpt-oss", "sparsemax")
    sums = [weights.sum(-1) for weights in model(tokens(), output_attentions=True).attentions]
    assert len(sums) == 2
    assert all((s <= 1 + 1e-6).all() and (s < 1).any() for s in sums)


@pytest.mark.parametrize("name", ["gpt2", "llama", "bert", "t5", "whisper", "vit"])
def test_output_attentions_are_the_weights(name):
    family = FAMILIES[name]
    stock = family.model_class()._from_config(family.make_config(), attn_implementation="eager").eval()
    model = build(name, "softmax")
    model.load_state_dict(stock.state_dict())
    expected, found = (each(**family.inputs(), output_attentions=True) for each in (stock, model))
    keys = [key for key in expected if "attentions" in key]
    assert sum(len(found[key]) for key in keys) == len(attention_modules(model))
    for key in keys:
        for ours_, theirs in zip(found[key], expected[key], strict=True):
            torch.testing.assert_close(ours_, theirs, rtol=1e-4, atol=1e-5)


def test_without_their_private_collector_weights_are_returned_where_asked_for_by_name(monkeypatch):
    module, q = attention_modules(build("llama"))[0], torch.randn(1, 4, 3, 8)
    expected = ours.attend(module, q, q, q, None, output_attentions=True)
    monkeypatch.delattr("transformers.utils.output_capturing._active_collector")
    monkeypatch.setattr(transformers.AttentionInterface, "_global_mapping", {})
    spec = importlib.util.spec_from_file_location("another", ours.__file__)
    another = importlib.util.module_from_spec(spec)
    with pytest.warns(UserWarning, match="does not tell whether output_attentions is on"):
        spec.loader.exec_module(another)
    assert another.attend(module, q, q, q, None)[1] is None
    for found, value in zip(another.attend(module, q, q, q, None, output_attentions=True), expected, strict=True):
        assert torch.equal(found, value)


def test_swins_shifted_windows_hide_what_is_foreign():
    """Two of the four windows hold two regions and one holds four. With ts at 0.01 SegLU would lift scores of -100."""
    model = build("swin")
    for module in attention_modules(model):
        module.reweight.ts.data.fill_(0.01)
    shifted, _ = model(**FAMILIES["swin"].inputs(), output_attentions=True).attentions
    zeros = (shifted == 0).flatten(1).sum(1).view(2, 4) / shifted[0].numel()
    torch.testing.assert_close(zeros, torch.tensor([0, 1 / 2, 1 / 2, 3 / 4]).expand(2, 4))


def test_a_stock_checkpoint_gets_drawn_parameters(tmp_path):
    stock = transformers.LlamaForCausalLM(FAMILIES["llama"].make_config())
    stock.save_pretrained(tmp_path)
    cls = ours.reweighted(transformers.LlamaForCausalLM, "multimax", order=1)
    model, info = cls.from_pretrained(tmp_path, output_loading_info=True)
    assert {key.rpartition(".reweight.")[2] for key in info["missing_keys"]} == {"ranges", "ts"}
    drawn = torch.cat([p.detach() for p in own(model).values()])
    assert ((drawn != 0) & (drawn.abs() < 0.1)).all()
    assert len(drawn.unique()) == len(drawn)  # no two layers alike
    for path, tensor in stock.state_dict().items():
        assert torch.equal(model.state_dict()[path], tensor)
    with pytest.raises(ValueError, match="names no reweighting"):
        ours.from_pretrained(transformers.AutoModelForCausalLM, tmp_path)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_parameters_stay_in_float32(dtype, tmp_path):
    model = build("llama", "entmax")
    model.save_pretrained(tmp_path)
    loaded = ours.from_pretrained(transformers.AutoModelForCausalLM, tmp_path, dtype=dtype)
    made = type(loaded).from_config(loaded.config, dtype=dtype)
    for each in (loaded, made):
        assert {p.dtype for p in own(each).values()} == {torch.float32}
        assert each.lm_head.weight.dtype == each(tokens()).logits.dtype == dtype
    for path, parameter in own(model).items():
        assert torch.equal(own(loaded)[path], parameter)


def test_without_us_a_checkpoint_is_refused(tmp_path):
    build("llama", "sparsemax").save_pretrained(tmp_path)
    stock = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"has no reweighting; load the model with multimax\.integrations"):
        stock(tokens())
    interface = transformers.AttentionInterface._global_mapping
    function = interface.pop(ours.NAME)
    try:
        with pytest.raises(ValueError, match='attn_implementation="multimax"` is not supported'):
            transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    finally:
        interface[ours.NAME] = function


def test_what_cannot_be_had_is_refused(tmp_path):
    with pytest.raises(ValueError, match="did you mean 'multimax'"):
        ours.reweighted(transformers.LlamaForCausalLM, "multmax")
    with pytest.raises(TypeError, match="must be a class of models"):
        ours.reweighted(transformers.AutoModelForCausalLM, "multimax")
    bloom = transformers.BloomConfig(vocab_size=VOCABULARY, hidden_size=32, n_layer=1, n_head=4)
    with pytest.raises(ValueError, match="BloomForCausalLM computes attention in a way of its own"):
        ours.reweighted(transformers.BloomForCausalLM, "multimax")(bloom)
    other = ours.reweighted(transformers.LlamaForCausalLM, "sparsemax")
    with pytest.raises(ValueError, match=r"saved with {'name': 'multimax'}, its class is for {'name': 'sparsemax'}"):
        other(build("llama").config)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda path: ours.reweighted("llama", "multimax"), "must be a class of models, .* got str"),
        (
            lambda path: ours.reweighted(transformers.LlamaForCausalLM, "multimax", num_heads=2),
            "num_heads is no option",
        ),
        (lambda path: ours.reweighted(transformers.LlamaForCausalLM, "multimax")(None), "config must be .* NoneType"),
        (
            lambda path: ours.reweighted(transformers.LlamaForCausalLM, "multimax").from_config({}),
            "config must be .*dict",
        ),
        (lambda path: ours.from_pretrained("llama", path), "model_class must be .* got str"),
        (lambda path: ours.from_pretrained(transformers.AutoConfig, path), "model_class must be .* got AutoConfig"),
        (
            lambda path: ours.from_pretrained(transformers.LlamaForCausalLM, path, config="x"),
            "config must be .* got str",
        ),
        (
            lambda path: ours.from_pretrained(transformers.AutoModelForImageClassification, path),
            "AutoModelForImageClassification has no model for a LlamaConfig",
        ),
        (
            lambda path: ours.from_pretrained(transformers.LlamaForCausalLM, edited(path, "softmax")),
            "configured as .*'softmax'",
        ),
        (
            lambda path: ours.from_pretrained(transformers.LlamaForCausalLM, edited(path, {"order": 1})),
            "configured as .*order",
        ),
    ],
)
def test_wrong_arguments_end_in_a_line(call, message, tmp_path):
    build("llama").save_pretrained(tmp_path)
    with pytest.raises((TypeError, ValueError), match=message) as raised:
        call(tmp_path)
    assert "\n" not in str(raised.value)


def edited(path, site):
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"reweight": site}))
    return path


def test_a_model_that_passes_its_attention_what_is_unknown_is_refused(monkeypatch):
    monkeypatch.setattr(ours, "ARGUMENTS", ours.ARGUMENTS - {"scaling"})
    with pytest.raises(ValueError, match=r"layers.0.self_attn of LlamaForCausalLM cannot .* it passes scaling to its"):
        build("llama")


def test_a_class_of_ours_loads_what_it_saved(tmp_path):
    model = build("llama")
    model.save_pretrained(tmp_path)
    loaded = ours.from_pretrained(type(model), tmp_path)
    assert torch.equal(loaded(tokens()).logits, model(tokens()).logits)


def test_the_rest_of_a_model_starts_as_without_us():
    torch.manual_seed(0)
    stock = transformers.LlamaForCausalLM(FAMILIES["llama"].make_config())
    after = torch.rand(1)
    config = FAMILIES["llama"].make_config()
    model = ours.reweighted(transformers.LlamaForCausalLM, "multimax")(config)
    assert torch.rand(1) == after
    assert all(torch.equal(model.state_dict()[path], tensor) for path, tensor in stock.state_dict().items())
    assert not hasattr(config, "reweight")


def test_gradient_checkpointing_gives_the_same_gradients():
    gradients = []
    for checkpointing in (False, True):
        model = build("llama").train()
        if checkpointing:
            model.gradient_checkpointing_enable()
        model(tokens(), labels=tokens()).loss.backward()
        gradients.append([p.grad for p in model.parameters()])
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(checkpointed, plain)


def test_compiles_without_a_break():
    torch.compiler.reset()
    model, inputs = build("llama"), FAMILIES["llama"].generates()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    found, expected = (each(**inputs, use_cache=False).logits for each in (compiled, model))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def rows(count=8):
    ids = tokens(count)
    return [{"input_ids": row, "labels": row} for row in ids]


def trainer(model, folder, steps, **options):
    arguments = transformers.TrainingArguments(
        str(folder),
        max_steps=steps,
        save_steps=2,
        per_device_train_batch_size=2,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        gradient_checkpointing=True,
        lr_scheduler_type="constant",
        **options,
    )
    optimizer = torch.optim.AdamW(multimax.parameter_groups(model, 0.05, lr=1e-2), lr=1e-3)
    return transformers.Trainer(model, arguments, train_dataset=rows(), optimizers=(optimizer, None))


def test_a_trainer_resumes_to_the_same_weights(tmp_path):
    whole, part = build("llama"), build("llama")
    start = copy.deepcopy(own(whole))
    trainer(whole, tmp_path / "whole", 4).train()
    trainer(part, tmp_path / "part", 2).train()
    resumed = build("llama")
    trainer(resumed, tmp_path / "part", 4).train(resume_from_checkpoint=True)
    for path, tensor in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[path], tensor, rtol=0, atol=0, msg=path)
    assert all(not torch.equal(own(whole)[path], tensor) for path, tensor in start.items())
    saved = ours.from_pretrained(transformers.AutoModelForCausalLM, tmp_path / "part" / "checkpoint-4")
    assert all(torch.equal(own(saved)[path], p) for path, p in own(whole).items())


def test_trainers_label_smoothing_shifts_labels(tmp_path):
    """The Trainer decides by the name of the class."""
    losses = []
    for cls in (transformers.LlamaForCausalLM, ours.reweighted(transformers.LlamaForCausalLM, "softmax")):
        model = cls(FAMILIES["llama"].make_config())
        losses.append(trainer(model, tmp_path, 1, label_smoothing_factor=0.1).train().training_loss)
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.parametrize("function", ["multimax", "entmax"])
def test_peft_trains_and_saves_our_parameters(function, tmp_path):
    peft = pytest.importorskip("peft", reason="needs peft")
    base = build("llama", function)
    base.save_pretrained(tmp_path / "base")
    plain = base(tokens()).logits
    config = peft.LoraConfig(target_modules=["q_proj"], modules_to_save=["reweight"])
    model = peft.get_peft_model(base, config)
    torch.testing.assert_close(model(tokens()).logits, plain)
    optimizer = torch.optim.AdamW(multimax.parameter_groups(model.train(), 0.0), lr=0.1)
    model(tokens(), labels=tokens()).loss.backward()
    optimizer.step()
    expected = model.eval()(tokens()).logits
    assert not torch.allclose(expected, plain)
    with model.disable_adapter():
        torch.testing.assert_close(model(tokens()).logits, plain)
    model.save_pretrained(tmp_path / "adapter")
    base = ours.from_pretrained(transformers.AutoModelForCausalLM, tmp_path / "base")
    loaded = peft.PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    torch.testing.assert_close(loaded(tokens()).logits, expected)
    merged = loaded.merge_and_unload()
    assert all(isinstance(m.reweight, reweight.Reweighting) for m in attention_modules(merged))
    torch.testing.assert_close(merged(tokens()).logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("page", ["trainers.md", "transformers.md"])
def test_the_snippets_of_the_docs_run(page, root, tmp_path, monkeypatch):
    pytest.importorskip("peft", reason="needs peft")
    monkeypatch.chdir(tmp_path)
    model = build("llama")
    names = {"model": model, "loss": model(tokens(), labels=tokens()).loss, "dataset": rows()}
    snippets = re.findall(r"^```python\n(.*?)^```", (root / "docs" / page).read_text(), re.MULTILINE | re.DOTALL)
    assert snippets
    for snippet in snippets:
        exec(snippet, names)
    if page == "trainers.md":

        class Lightnings(names["OwnGroups"], torch.nn.Sequential):
            """A plain module, whose methods the test calls as Lightning would."""

        module = Lightnings(torch.nn.Linear(4, 4), reweight.create("multimax"))
        module(torch.randn(3, 4)).square().sum().backward()
        optimizer = module.configure_optimizers()
        assert [group["weight_decay"] for group in optimizer.param_groups] == [0.05, 0, 0]
        module.configure_gradient_clipping(optimizer, gradient_clip_val=1e-3, gradient_clip_algorithm="norm")
        assert all(p.grad.norm() <= 1.001e-3 for p in module.parameters())
    if page == "transformers.md":
        trained = {path for path, p in names["model"].named_parameters() if p.requires_grad}
        assert {"ranges", "ts"} <= {path.rpartition(".")[2] for path in trained}
