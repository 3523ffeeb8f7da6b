"""How a base attends: short sequences by plain matrix products, and rows that lie packed end to end.

torch's own kernel works in blocks, so that long sequences need little memory, and pays for it on short ones.
Forward and backward in bfloat16 on one thread of an AMD EPYC:

    sequences    tokens    heads    size    torch    here
            4       128      4:1     256    15.4     5.0 ms
           16        32      4:1     256     8.1     1.5
            1       512      4:1     256    38.2    20.8
            4       128      9:3      64    16.1     3.8

Longer sequences, whatever has a mask of its own, dropout or scores of its own, and what follows on a transformers
cache goes to torch's, and so does all on CUDA. Whoever keeps the keys and values itself attends itself (`attending`).
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import torch

from adapter_service.base_models.layout import Block, Layout, Segment

NAME = "short_or_packed"
LONGEST = 512
# What changes the scores, and is torch's affair; such a model does not pack.
_CHANGES_SCORES = ("position_bias", "softcap", "s_aux", "indices")
# Kinds of layers, in transformers' words, in which tokens meet nowhere but where they attend.
_ATTENDING = frozenset({"full_attention", "sliding_attention", "chunked_attention"})


_packing: ContextVar[Packing | None] = ContextVar("packing", default=None)
_attending: ContextVar[Attending | None] = ContextVar("attending", default=None)


# Keys and values (1, heads, tokens, size) of a prefix; and of each decoder layer.
Prefix = tuple[torch.Tensor, torch.Tensor]
Kept = dict[int, Prefix]


class Attending(Protocol):
    """What keeps the keys and values of the tokens before, and attends to them."""

    def attend(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        scale: float,
        window: int | None,
    ) -> torch.Tensor:
        """Keep `key` and `value` of the decoder layer's new tokens, then attend.

        Heads (batch, heads, tokens, size) in, (batch, tokens, heads, size) out; where there is a `window`, a token
        sees the last so many, itself among them.
        """
        ...


@dataclass(frozen=True, slots=True)
class Packing:
    """How the rows of a pass lie.

    A segment's prefix lies before its rows; where there is `behind`, it is what was computed of it before, None where
    the segment has none. `keeps` takes of each segment what its one row comes to.
    """

    layout: Layout
    behind: Sequence[Kept | None] | None = None
    keeps: Sequence[Kept] | None = None


def install(model: Any) -> None:
    """Let a transformers model attend this way, if it would ask torch's kernel."""
    from transformers import AttentionInterface, AttentionMaskInterface

    if model.config.get_text_config()._attn_implementation == "sdpa" and not _minds_the_name(model):
        AttentionInterface.register(NAME, attend)
        AttentionMaskInterface.register(NAME, mask)
        model.set_attn_implementation(NAME)


def _minds_the_name(model: Any) -> bool:
    """Whether the model's own code does something else where it attends by torch's kernel: some drop a mask."""
    return '"sdpa"' in inspect.getsource(sys.modules[type(model).__module__])


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
    with _by_torch(model):
        apart = model.get_decoder()(input_ids=rows, use_cache=False).last_hidden_state
    once = torch.cat([rows[0], rows[1, 3:]])[None]
    try:
        together = packed_states(model, once, places, (Segment(3, (Block(2, 4),)),))[0]
        tells_layers_apart = len(kept_prefix(model, rows[:1, :3])) == config.num_hidden_layers
    except (TypeError, ValueError, RuntimeError, IndexError):  # a model that takes no positions, or minds their order
        return False
    wanted = torch.cat([apart[0], apart[1, 3:]]).float()  # (tokens, hidden)
    # In bfloat16 Gemma 3 270M is up to 0.052 off, and 0.19 or more where positions or what is seen are wrong.
    tolerance = 0.001 if apart.dtype == torch.float32 else 0.1
    return tells_layers_apart and bool(
        ((together.float() - wanted).norm(dim=-1) <= tolerance * wanted.norm(dim=-1)).all()
    )


@contextmanager
def _by_torch(model: Any) -> Iterator[None]:
    model.set_attn_implementation("sdpa")
    try:
        yield
    finally:
        model.set_attn_implementation(NAME)


def packed_states(
    model: Any, ids: torch.Tensor, positions: torch.Tensor, layout: Layout, behind: Sequence[Kept | None] | None = None
) -> torch.Tensor:
    """Hidden states (1, tokens, hidden) of rows that lie in one sequence; `positions` count in each row by itself.

    Both are (1, tokens). With `behind` (`kept_prefix` of each segment's) the prefixes do not lie in the sequence.
    Layers that are run once more for the backward pass want `packed` around that.
    """
    return _states(model, ids, positions, Packing(layout, behind))


@torch.no_grad()
def kept_prefix(model: Any, ids: torch.Tensor, behind: Kept | None = None) -> Kept:
    """Keys and values of what rows begin with, (1, tokens), or go on with `behind` that; no gradient goes through them.

    What it goes on from is part of what is kept.
    """
    start = 0 if behind is None else next(iter(behind.values()))[0].shape[2]
    end, kept = start + ids.shape[1], dict[int, Prefix]()
    positions = torch.arange(start, end, device=ids.device)[None]
    layout = (Segment(start, (Block(1, end - start),)),)
    _states(model, ids, positions, Packing(layout, (behind,), keeps=(kept,)))
    if behind is None:
        return kept
    return {
        layer: (torch.cat([behind[layer][0], keys], dim=2), torch.cat([behind[layer][1], values], dim=2))
        for layer, (keys, values) in kept.items()
    }


def _states(model: Any, ids: torch.Tensor, positions: torch.Tensor, packing: Packing) -> torch.Tensor:
    # A mask of ones keeps transformers from guessing by the positions where rows begin.
    more = {"position_ids": positions, "attention_mask": torch.ones_like(ids), "use_cache": False}
    with packed(packing):
        states: torch.Tensor = model.get_decoder()(input_ids=ids, **more).last_hidden_state
    return states


@contextmanager
def attending(by: Attending) -> Iterator[None]:
    """Let the layers that run inside attend by `by`, without a mask or a cache of transformers'."""
    token = _attending.set(by)
    try:
        yield
    finally:
        _attending.reset(token)


@contextmanager
def packed(packing: Packing | None) -> Iterator[None]:
    """Let the layers that run inside attend in rows that lie so."""
    token = _packing.set(packing)
    try:
        yield
    finally:
        _packing.reset(token)


def packing_in_use() -> Packing | None:
    return _packing.get()


def mask(*, q_length: int, kv_length: int, attention_mask: torch.Tensor | None = None, **asked: Any) -> Any:
    """Transformers' protocol: None where causality says it all, else (batch, 1, tokens, tokens), true where seen.

    For packed rows it is that of the longest one by itself.
    """
    from transformers.masking_utils import sdpa_mask

    if _attending.get() is not None:
        return None
    packing = _packing.get()
    if packing is not None:
        q_length = kv_length = max(segment.longest_row for segment in packing.layout)
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
    changed = [name for name in _CHANGES_SCORES if kwargs.get(name) is not None]
    if (by := _attending.get()) is not None:
        if changed:
            raise ValueError(f"no cache of ours attends with {changed}")
        return by.attend(module.layer_idx, query, key, value, scale, kwargs.get("sliding_window")), None  # type: ignore[arg-type]
    if (packing := _packing.get()) is not None:
        if changed:
            raise ValueError(f"packed rows cannot attend with {changed}")
        layer: Any = getattr(module, "layer_idx", None)
        return _attend_packed(layer, query, key, value, attention_mask, scale, packing), None
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    tokens = query.shape[2]
    plain = attention_mask is None and not (dropout or changed) and causal and tokens == key.shape[2]
    if plain and 1 < tokens <= LONGEST and query.device.type == "cpu":
        return _short(query, key, value, None, _behind(query.dtype)[:tokens, :tokens], scale), None
    more = {"dropout": dropout, "scaling": scaling, "is_causal": is_causal, **kwargs}
    attended: tuple[torch.Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, **more)
    return attended


def _attend_packed(
    layer: int,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    row_mask: torch.Tensor | None,
    scale: float,
    packing: Packing,
) -> torch.Tensor:
    """A prefix looks at itself, each row at its prefix and at itself: (1, tokens, heads, size)."""
    behind = packing.behind
    first = 0 if behind is None else 1  # of a segment's sizes its prefix is the first
    sizes = [size for segment in packing.layout for size in segment.sizes[first:]]
    parts = zip(*(torch.split(x, sizes, dim=2) for x in (query, key, value)), strict=True)
    attended = []
    for number, segment in enumerate(packing.layout):
        prefix: Prefix | None = None
        if behind is None:
            q, k, v = next(parts)
            if segment.prefix:
                attended.append(_attend_in_row(q, k, v, None, row_mask, scale))
                prefix = (k, v)
        elif (kept := behind[number]) is not None:
            prefix = kept[layer]
        for block in segment.blocks:
            q, k, v = (_by_row(x, block.rows) for x in next(parts))
            of_rows = _attend_in_row(q, k, v, prefix, row_mask, scale)
            attended.append(of_rows.reshape(1, -1, *of_rows.shape[2:]))
            if packing.keeps is not None:
                packing.keeps[number][layer] = (k, v)
    return torch.cat(attended, dim=1)


def _by_row(x: torch.Tensor, rows: int) -> torch.Tensor:
    """(1, heads, rows × own tokens, size) as (rows, heads, own tokens, size)."""
    return x.transpose(1, 2).reshape(rows, -1, x.shape[1], x.shape[3]).transpose(1, 2)


def _attend_in_row(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    prefix: Prefix | None,
    row_mask: torch.Tensor | None,
    scale: float,
) -> torch.Tensor:
    """Heads (rows, heads, tokens, size) over themselves and the keys and values before them, as `row_mask` says.

    That is (1, 1, tokens, tokens) of a whole row; None where it is causality alone.
    """
    start = 0 if prefix is None else prefix[0].shape[2]
    end = start + query.shape[2]
    if end <= LONGEST and query.device.type == "cpu":
        if row_mask is None:
            bias = _behind(query.dtype)[start:end, :end]
        else:
            hidden = ~row_mask[0, 0, start:end, :end]
            bias = torch.zeros(hidden.shape, dtype=query.dtype).masked_fill_(hidden, float("-inf"))
        return _short(query, key, value, prefix, bias, scale)
    if prefix is not None:
        key, value = (_behind_prefix(x, own) for x, own in zip(prefix, (key, value), strict=True))
    if row_mask is None and prefix is None:
        how: dict[str, Any] = {"is_causal": True}
    elif row_mask is None:
        how = {"attn_mask": torch.ones(end, end, dtype=torch.bool, device=query.device).tril()[start:]}
    else:
        how = {"attn_mask": row_mask[0, 0, start:end, :end]}
    # With a mask and grouped heads torch has no kernel but the one that keeps all scores.
    key, value = (x.repeat_interleave(query.shape[1] // key.shape[1], dim=1) for x in (key, value))
    attended = torch.nn.functional.scaled_dot_product_attention(query, key, value, scale=scale, **how)
    return attended.transpose(1, 2).contiguous()


def _behind_prefix(prefix: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    """`own` (rows, heads, tokens, size), each row behind the prefix (1, heads, tokens, size)."""
    return torch.cat([prefix.expand(own.shape[0], -1, -1, -1), own], dim=2)


def _short(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    prefix: Prefix | None,
    bias: torch.Tensor,
    scale: float,
) -> torch.Tensor:
    attended: torch.Tensor = _Attention.apply(query, key, value, *(prefix or (None, None)), bias, scale)  # type: ignore[no-untyped-call]
    return attended.transpose(1, 2).contiguous()


class _Attention(torch.autograd.Function):
    """softmax(scale × Q Kᵀ + bias) V; the heads that share keys and values are rows of one product.

    Keys and values of a prefix stand before those of every row; they are copied to each for the products alone, and
    kept once.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        prefix_key: torch.Tensor | None,
        prefix_value: torch.Tensor | None,
        bias: torch.Tensor,
        scale: float,
    ) -> torch.Tensor:
        ctx.scale = scale
        q, k, v = _as_products(query, key, value, prefix_key, prefix_value)
        scores = torch.bmm(q, k.transpose(1, 2)).mul_(scale)  # (rows × groups, heads a group × queries, keys)
        scores.view(-1, *bias.shape).add_(bias)
        # In 16 bits torch's kernel takes three times as long for rows that are no whole number of vectors.
        shares = scores.softmax(-1, dtype=torch.float32).to(scores.dtype)
        ctx.save_for_backward(query, key, value, prefix_key, prefix_value, shares)
        return torch.bmm(shares, v).view(*query.shape[:3], -1)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query, key, value, prefix_key, prefix_value, shares = ctx.saved_tensors
        q, k, v = _as_products(query, key, value, prefix_key, prefix_value)
        gradient = grads[0].reshape(*q.shape[:2], -1)
        by_value = torch.bmm(shares.transpose(1, 2), gradient)
        by_share = torch.bmm(gradient, v.transpose(1, 2))
        by_score = torch._softmax_backward_data(by_share, shares, -1, shares.dtype).mul_(ctx.scale)
        by_query = torch.bmm(by_score, k).view(query.shape)
        by_key = torch.bmm(by_score.transpose(1, 2), q)
        by_prefix_key, by_key = _of_prefix_and_own(by_key, key, prefix_key)
        by_prefix_value, by_value = _of_prefix_and_own(by_value, value, prefix_value)
        return by_query, by_key, by_value, by_prefix_key, by_prefix_value, None, None


def _as_products(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    prefix_key: torch.Tensor | None,
    prefix_value: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Queries (rows × groups, heads a group × queries, size), keys and values (rows × groups, keys, size)."""
    (rows, heads, queries, size), groups = query.shape, key.shape[1]
    q = query.reshape(rows * groups, heads // groups * queries, size)
    if prefix_key is not None and prefix_value is not None:
        key, value = _behind_prefix(prefix_key, key), _behind_prefix(prefix_value, value)
    k, v = (x.reshape(rows * groups, x.shape[2], x.shape[3]) for x in (key, value))
    return q, k, v


def _of_prefix_and_own(
    gradient: torch.Tensor, own: torch.Tensor, prefix: torch.Tensor | None
) -> tuple[torch.Tensor | None, torch.Tensor]:
    """Split what came for keys or values; that of a prefix adds up over the rows."""
    if prefix is None:
        return None, gradient.view(own.shape)
    start = prefix.shape[2]
    whole = gradient.view(*own.shape[:2], start + own.shape[2], own.shape[3])
    return whole[:, :, :start].sum(0, keepdim=True), whole[:, :, start:]


@cache
def _behind(dtype: torch.dtype) -> torch.Tensor:
    """-inf (query, key) where the key comes after the query."""
    return torch.full((LONGEST, LONGEST), float("-inf"), dtype=dtype).triu(1)
