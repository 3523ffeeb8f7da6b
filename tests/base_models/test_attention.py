"""The base's attention against torch's own, and rows that share a prefix against the same rows one by one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    Lfm2Config,
    Lfm2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MiniCPM3Config,
    MiniCPM3ForCausalLM,
)

from adapter_service.base_models import attention
from adapter_service.base_models.attention import Packing, kept_prefix, packed_states
from adapter_service.base_models.layout import Block, Segment
from adapter_service.model_utils import BaseModel

VOCABULARY, WINDOW = 300, 9


def llama() -> Any:
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY, hidden_size=64, intermediate_size=96, num_hidden_layers=3,
            num_attention_heads=4, num_key_value_heads=2, initializer_range=0.2,
        )
    )  # fmt: skip


def gemma() -> Any:
    """Layers that see the last `WINDOW` tokens, and two that see all."""
    return Gemma3ForCausalLM(
        Gemma3TextConfig(
            vocab_size=VOCABULARY, hidden_size=64, intermediate_size=96, num_hidden_layers=4, num_attention_heads=4,
            num_key_value_heads=1, head_dim=16, sliding_window=WINDOW, query_pre_attn_scalar=16,
            layer_types=["sliding_attention", "full_attention"] * 2, initializer_range=0.2,
        )
    )  # fmt: skip


def gpt() -> Any:
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=VOCABULARY, n_embd=64, n_layer=2, n_head=4, initializer_range=0.2,
            bos_token_id=0, eos_token_id=0, attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0,
        )
    )  # fmt: skip


def convolving() -> Any:
    """A layer in which neighbours meet in a convolution."""
    return Lfm2ForCausalLM(
        Lfm2Config(
            vocab_size=VOCABULARY, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, layer_types=["conv", "full_attention"],
        )
    )  # fmt: skip


def with_other_values() -> Any:
    """Heads whose values have another size than queries and keys."""
    return MiniCPM3ForCausalLM(
        MiniCPM3Config(
            vocab_size=VOCABULARY, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=4, q_lora_rank=16, kv_lora_rank=16, qk_nope_head_dim=12, qk_rope_head_dim=4,
            v_head_dim=8, initializer_range=0.2,
        )
    )  # fmt: skip


def made(make: Any) -> Any:
    torch.manual_seed(0)
    return make().eval().requires_grad_(requires_grad=False)


def random_ids(rows: int, tokens: int) -> torch.Tensor:
    return torch.randint(5, VOCABULARY, (rows, tokens), generator=torch.Generator().manual_seed(1))


def states_and_gradient(model: Any, states_of: Callable[[], torch.Tensor]) -> list[torch.Tensor]:
    """Hidden states (all tokens, hidden), and the gradient of a sum over them by a scale of the embeddings."""
    scale = torch.ones(64, requires_grad=True, dtype=model.dtype)
    scaling = model.get_input_embeddings().register_forward_hook(lambda _, args, made: made * scale)
    states = states_of().reshape(-1, 64)
    scaling.remove()
    (states.sin() * torch.linspace(-1, 1, states.numel()).view_as(states)).sum().backward()  # type: ignore[no-untyped-call]
    assert scale.grad is not None
    return [states.detach(), scale.grad]


@pytest.mark.parametrize("make", [llama, gemma, gpt, with_other_values])
@pytest.mark.parametrize("shape", [(3, 8), (2, 24), (1, attention.LONGEST + 8)])
def test_states_and_gradients_are_those_of_torchs_attention(make: Any, shape: tuple[int, int]) -> None:
    model, ids = made(make), random_ids(*shape)
    theirs = states_and_gradient(model, lambda: model.get_decoder()(ids).last_hidden_state)
    attention.install(model)
    ours = states_and_gradient(model, lambda: model.get_decoder()(ids).last_hidden_state)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_short_sequences_do_not_go_through_torchs_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    model = made(llama)
    attention.install(model)
    monkeypatch.delattr(torch.nn.functional, "scaled_dot_product_attention")
    model(random_ids(2, 16))


@pytest.mark.parametrize("make", [llama, gemma, gpt])
@pytest.mark.parametrize("kernel", ["short", "torch"])
def test_packed_rows_have_the_states_and_the_gradient_of_the_rows_one_by_one(
    make: Any, kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = made(make).double()
    attention.install(model)
    if kernel == "torch":
        monkeypatch.setattr(attention, "LONGEST", 1)
    prefix, own = 2 * WINDOW, 7
    alike, others = random_ids(3, prefix + own), random_ids(2, 12) + 1
    alike[:, :prefix] = alike[0, :prefix]
    short = alike[0, : prefix + 4]
    layout = (Segment(0, (Block(2, 12),)), Segment(prefix, (Block(3, own), Block(1, 4))))
    ids = torch.cat([others.flatten(), alike[0], alike[1, prefix:], alike[2, prefix:], short[prefix:]])[None]
    ends = [prefix + own, prefix + own, prefix + 4]
    places = torch.cat(
        [*[torch.arange(12)] * 2, torch.arange(prefix + own), *(torch.arange(prefix, end) for end in ends)]
    )[None]
    together = states_and_gradient(model, lambda: packed_states(model, ids, places, layout))
    decoder = model.get_decoder()
    alone = [(others, 0), (alike[:1], 0), (alike[1:2], prefix), (alike[2:], prefix), (short[None], prefix)]
    apart = states_and_gradient(
        model, lambda: torch.cat([decoder(rows).last_hidden_state[:, skip:].reshape(-1, 64) for rows, skip in alone])
    )
    for found, wanted in zip(together, apart, strict=True):
        assert (found - wanted).norm() < 1e-6 * wanted.norm()  # norms and rotations are float32 in every model


@pytest.mark.parametrize("kernel", ["ours", "torch"])
@pytest.mark.parametrize("make", [llama, gemma, gpt])
def test_rows_behind_a_kept_prefix_have_the_states_and_the_gradient_of_rows_on_a_cache(
    make: Any, kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import DynamicCache

    model = made(make).double()
    prefix, own = 2 * WINDOW, 7
    alike, others = random_ids(2, prefix + own), random_ids(2, 12) + 1
    alike[:, :prefix] = alike[0, :prefix]

    def on_a_cache(row: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            cache = model(row[None, :prefix], past_key_values=DynamicCache(config=model.config)).past_key_values
        states: torch.Tensor = model.get_decoder()(row[None, prefix:], past_key_values=cache).last_hidden_state[0]
        return states

    def apart() -> torch.Tensor:
        alone = model.get_decoder()(others).last_hidden_state.reshape(-1, 64)
        return torch.cat([on_a_cache(alike[0]), on_a_cache(alike[1]), alone])

    wanted = states_and_gradient(model, apart)
    attention.install(model)
    if kernel == "torch":
        monkeypatch.setattr(attention, "LONGEST", 1)
    layout = (Segment(prefix, (Block(2, own),)), Segment(0, (Block(2, 12),)))
    ids = torch.cat([alike[:, prefix:].flatten(), others.flatten()])[None]
    places = torch.cat([*[torch.arange(prefix, prefix + own)] * 2, *[torch.arange(12)] * 2])[None]

    def behind() -> torch.Tensor:
        begun = kept_prefix(model, alike[:1, :5])
        return packed_states(model, ids, places, layout, [kept_prefix(model, alike[:1, 5:prefix], begun), None])

    for found, one in zip(states_and_gradient(model, behind), wanted, strict=True):
        assert (found - one).norm() < 1e-6 * one.norm()


@pytest.mark.parametrize(("make", "shares"), [(llama, True), (gemma, True), (gpt, True), (convolving, False)])
def test_whether_a_model_can_pack_is_asked_of_it(make: Any, shares: bool) -> None:
    model = made(make)
    attention.install(model)
    assert attention.can_pack(model) is shares


def test_scores_that_a_model_changes_are_torchs_affair() -> None:
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    layer = made(llama).model.layers[0].self_attn
    query, key, value = torch.randn(3, 2, 4, 6, 16).unbind(0)
    bias = torch.randn(1, 4, 6, 6)
    layer.num_key_value_groups = 1
    theirs, _ = sdpa_attention_forward(layer, query, key, value, None, position_bias=bias)
    ours, _ = attention.attend(layer, query, key, value, None, position_bias=bias)
    torch.testing.assert_close(ours, theirs)
    with attention.packed(Packing((Segment(0, (Block(1, 6),)),))), pytest.raises(ValueError, match="position_bias"):
        attention.attend(layer, query, key, value, None, position_bias=bias)


def test_what_rows_begin_with_is_kept_once() -> None:
    model, kept = made(llama), dict[int, int]()

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    packing = Packing((Segment(40, (Block(8, 2),)),))
    query, key, value = (torch.randn(1, heads, 56, 16, requires_grad=True) for heads in (4, 2, 2))
    with attention.packed(packing), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        attention.attend(model.model.layers[0].self_attn, query, key, value, None)
    whole = sum(x.numel() for x in (query, key, value)) * 4
    shares = (40 * 40 + 8 * 2 * 42) * 4 * 4
    assert sum(kept.values()) <= 2 * whole + shares  # the prefix eight times over would be 3 times as much


def test_a_model_whose_tokens_meet_where_it_does_not_say_so_shares_nothing() -> None:
    model = made(llama)
    attention.install(model)
    model.model.layers[0].register_forward_hook(lambda _, args, made: made + made.roll(1, dims=1))
    assert not attention.can_pack(model)


@pytest.mark.model
def test_a_small_real_base_is_read_so(small_base: BaseModel) -> None:
    assert small_base.packs_rows
    assert small_base.model.config._attn_implementation == attention.NAME


def test_a_model_that_attends_its_own_way_keeps_it() -> None:
    model = made(llama)
    model.set_attn_implementation("eager")
    attention.install(model)
    assert model.config._attn_implementation == "eager"
    assert not attention.can_pack(model)
