"""How a base attends: short sequences by plain matrix products, and rows that lie packed end to end.

torch's own kernel works in blocks, so that long sequences need little memory, and pays for it on short ones.
Forward and backward in bfloat16 on one thread of an AMD EPYC:

    sequences    tokens    heads    size    torch    here
            4       128      4:1     256    15.4     5.0 ms
           16        32      4:1     256     8.1     1.5
            1       512      4:1     256    38.2    20.8
            4       128      9:3      64    16.1     3.8

Longer sequences, and whatever has a cache, a mask of its own or dropout, goes to torch's, and so does all on CUDA.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any

import torch

from adapter_service.base_models.layout import Block, Layout, Segment

NAME = "short_or_packed"
LONGEST = 512
# Kinds of layers, in transformers' words, in which tokens meet nowhere but where they attend.
_ATTENDING = frozenset({"full_attention", "sliding_attention", "chunked_attention"})


_layout: ContextVar[Layout | None] = ContextVar("layout", default=None)


def install(model: Any) -> None:
    """Let a transformers model attend this way, if it asks torch's kernel otherwise."""
    from transformers import AttentionInterface, AttentionMaskInterface

    if model.config.get_text_config()._attn_implementation == "sdpa":
        AttentionInterface.register(NAME, attend)
        AttentionMaskInterface.register(NAME, mask)
        model.set_attn_implementation(NAME)


@torch.no_grad()
def can_pack(model: Any) -> bool:
    """Whether packed rows give what they give one by one: not so where tokens meet elsewhere than in attention.

    Asked of the model itself: what it does to its tokens beside attending cannot be seen from outside.
    """
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ())
    if config._attn_implementation != NAME or not kinds <= _ATTENDING:
        return False
    rows = (torch.arange(14).view(2, 7) + 20) % model.get_input_embeddings().weight.shape[0]
    rows[1, :3] = rows[0, :3]
    rows, places = rows.to(model.device), torch.tensor([[0, 1, 2, 3, 4, 5, 6, 3, 4, 5, 6]], device=model.device)
    apart = model.get_decoder()(input_ids=rows, use_cache=False).last_hidden_state
    once = torch.cat([rows[0], rows[1, 3:]])[None]
    try:
        together = packed_states(model, once, places, (Segment(3, (Block(2, 4),)),))[0]
    except (TypeError, ValueError, RuntimeError):  # a model that takes no positions, or minds their order
        return False
    wanted = torch.cat([apart[0], apart[1, 3:]]).float()  # (tokens, hidden)
    tolerance = 0.001 if apart.dtype == torch.float32 else 0.05
    return bool(((together.float() - wanted).norm(dim=-1) <= tolerance * wanted.norm(dim=-1)).all())


def packed_states(model: Any, ids: torch.Tensor, positions: torch.Tensor, layout: Layout) -> torch.Tensor:
    """Hidden states (1, tokens, hidden) of rows that lie in one sequence; `positions` count in each row by itself.

    Both are (1, tokens). Layers that are run once more for the backward pass want `packed` around that.
    """
    # A mask of ones keeps transformers from guessing by the positions where rows begin.
    more = {"position_ids": positions, "attention_mask": torch.ones_like(ids), "use_cache": False}
    with packed(layout):
        states: torch.Tensor = model.get_decoder()(input_ids=ids, **more).last_hidden_state
    return states


@contextmanager
def packed(layout: Layout | None) -> Iterator[None]:
    """Let the layers that run inside attend in rows of `layout`."""
    token = _layout.set(layout)
    try:
        yield
    finally:
        _layout.reset(token)


def layout_in_use() -> Layout | None:
    return _layout.get()


def mask(*, q_length: int, kv_length: int, attention_mask: torch.Tensor | None = None, **asked: Any) -> Any:
    """Transformers' protocol: None where causality says it all, else (batch, 1, tokens, tokens), true where seen.

    For packed rows it is that of the longest one by itself.
    """
    from transformers.masking_utils import sdpa_mask

    layout = _layout.get()
    if layout is not None:
        q_length = kv_length = max(segment.longest_row for segment in layout)
        attention_mask = None
    return sdpa_mask(q_length=q_length, kv_length=kv_length, attention_mask=attention_mask, **asked)


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,  # noqa: FBT001 - transformers' protocol
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Transformers' protocol: heads (batch, heads, tokens, size) in, (batch, tokens, heads, size) out."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if (layout := _layout.get()) is not None:
        return _attend_packed(query, key, value, attention_mask, scale, layout), None
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    tokens = query.shape[2]
    plain = attention_mask is None and not dropout and causal and tokens == key.shape[2]
    if plain and 1 < tokens <= LONGEST and query.device.type == "cpu":
        return _short(query, key, value, _behind(query.dtype)[:tokens, :tokens], scale), None
    more = {"dropout": dropout, "scaling": scaling, "is_causal": is_causal, **kwargs}
    attended: tuple[torch.Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, **more)
    return attended


def _attend_packed(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    row_mask: torch.Tensor | None,
    scale: float,
    layout: Layout,
) -> torch.Tensor:
    """A prefix looks at itself, each row at its prefix and at itself: (1, tokens, heads, size)."""
    seen = _seen(row_mask, max(segment.longest_row for segment in layout), query.device)
    sizes = [size for segment in layout for size in segment.sizes]
    parts = zip(*(torch.split(x, sizes, dim=2) for x in (query, key, value)), strict=True)
    attended = []
    for segment in layout:
        start, (prefix_q, prefix_k, prefix_v) = segment.prefix, next(parts)
        if start:
            attended.append(_attend_where(prefix_q, prefix_k, prefix_v, seen[:start, :start], scale))
        for block in segment.blocks:
            q, k, v = (_by_row(x, block.rows) for x in next(parts))
            if start:
                k, v = (_after(x, own) for x, own in ((prefix_k, k), (prefix_v, v)))
            end = start + block.tokens
            of_rows = _attend_where(q, k, v, seen[start:end, :end], scale)
            attended.append(of_rows.reshape(1, -1, *of_rows.shape[2:]))
    return torch.cat(attended, dim=1)


def _by_row(x: torch.Tensor, rows: int) -> torch.Tensor:
    """(1, heads, rows × own tokens, size) as (rows, heads, own tokens, size)."""
    return x.transpose(1, 2).reshape(rows, -1, x.shape[1], x.shape[3]).transpose(1, 2)


def _after(prefix: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    """`own` (rows, heads, tokens, size), each row behind the prefix (1, heads, tokens, size)."""
    return torch.cat([prefix.expand(own.shape[0], -1, -1, -1), own], dim=2)


def _seen(row_mask: torch.Tensor | None, tokens: int, device: torch.device) -> torch.Tensor:
    if row_mask is not None:
        return row_mask[0, 0]
    return torch.ones(tokens, tokens, dtype=torch.bool, device=device).tril()


def _attend_where(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, seen: torch.Tensor, scale: float
) -> torch.Tensor:
    """Heads (batch, heads, queries, size) over keys of which `seen` (queries, keys) may be looked at."""
    if key.shape[2] <= LONGEST and query.device.type == "cpu":
        bias = torch.zeros(seen.shape, dtype=query.dtype).masked_fill_(~seen, float("-inf"))
        return _short(query, key, value, bias, scale)
    attended = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=seen, scale=scale, enable_gqa=query.shape[1] != key.shape[1]
    )
    return attended.transpose(1, 2).contiguous()


def _short(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bias: torch.Tensor, scale: float
) -> torch.Tensor:
    attended: torch.Tensor = _Attention.apply(query, key, value, bias, scale)  # type: ignore[no-untyped-call]
    return attended.transpose(1, 2).contiguous()


class _Attention(torch.autograd.Function):
    """softmax(scale × Q Kᵀ + bias) V; the heads that share keys and values are rows of one product."""

    @staticmethod
    def forward(
        ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bias: torch.Tensor, scale: float
    ) -> torch.Tensor:
        (batch, heads, queries, size), (_, groups, keys, _) = query.shape, key.shape
        q = query.reshape(batch * groups, heads // groups * queries, size)
        k, v = (x.reshape(batch * groups, keys, size) for x in (key, value))
        scores = torch.bmm(q, k.transpose(1, 2)).mul_(scale)  # (batch × groups, heads a group × queries, keys)
        scores.view(-1, queries, keys).add_(bias)
        shares = scores.softmax(-1)
        ctx.save_for_backward(q, k, v, shares)
        ctx.scale, ctx.query_shape, ctx.key_shape = scale, query.shape, key.shape
        return torch.bmm(shares, v).view(query.shape)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, None, None]:
        q, k, v, shares = ctx.saved_tensors
        gradient = grads[0].reshape(q.shape)
        by_value = torch.bmm(shares.transpose(1, 2), gradient)
        by_share = torch.bmm(gradient, v.transpose(1, 2))
        by_score = torch._softmax_backward_data(by_share, shares, -1, shares.dtype).mul_(ctx.scale)
        by_query = torch.bmm(by_score, k)
        by_key = torch.bmm(by_score.transpose(1, 2), q)
        return by_query.view(ctx.query_shape), by_key.view(ctx.key_shape), by_value.view(ctx.key_shape), None, None


@cache
def _behind(dtype: torch.dtype) -> torch.Tensor:
    """-inf (query, key) where the key comes after the query."""
    return torch.full((LONGEST, LONGEST), float("-inf"), dtype=dtype).triu(1)
