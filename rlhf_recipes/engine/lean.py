"""A Llama-type decoder in few operations: the model's own numbers, at less cost on a CPU.

As transformers writes it, a layer is some forty operations and autograd's answer eighty more, most of them a pass over
memory: on a CPU a small model spends more time in those than in its matrix products. Here a layer is three functions
whose gradients are written out, and the last layer answers only where it is asked. Every other model, and this one
under an adapter, mixed precision or checkpointing, on a GPU or sharded, goes through its own forward.

Shapes: B rows of L tokens, right-padded; S places asked for; H heads of D, G key-value heads; n = B L.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.models.llama import modeling_llama
from transformers.models.qwen2 import modeling_qwen2

LAYERS = {
    modeling_llama.LlamaModel: (modeling_llama.LlamaDecoderLayer, modeling_llama.LlamaRMSNorm),
    modeling_qwen2.Qwen2Model: (modeling_qwen2.Qwen2DecoderLayer, modeling_qwen2.Qwen2RMSNorm),
}
SMALL_ATTENTION = 2**22  # scores of one layer that may be stored for the gradient; above it, torch's tiled attention


def serves(causal: nn.Module) -> bool:
    """Whether a causal model's decoder may be read here and its logits are one plain matrix product after it."""
    fitting = hasattr(causal, "base_model") and fits(causal.base_model)
    return fitting and type(causal.get_output_embeddings()) is nn.Linear


def fits(base: nn.Module) -> bool:
    """Whether `base` (a LlamaModel or Qwen2Model) may be read here, as things stand now."""
    if type(base) not in LAYERS or torch.is_autocast_enabled("cpu"):
        return False
    layer_type, norm_type = LAYERS[type(base)]
    config, embed = base.config, base.embed_tokens
    if config.hidden_act != "silu" or "dynamic" in base.rotary_emb.rope_type or type(embed) is not nn.Embedding:
        return False
    for module in base.modules():
        if module._forward_hooks or module._forward_pre_hooks:
            return False  # somebody is looking
    weight = embed.weight
    return (
        weight.device.type == "cpu"
        and weight.dtype == torch.float32
        and not hasattr(weight, "ds_id")
        and type(base.norm) is norm_type
        and all(_plain(layer, layer_type, norm_type) for layer in base.layers)
    )


def _plain(layer: nn.Module, layer_type: type, norm_type: type) -> bool:
    if type(layer) is not layer_type or layer.gradient_checkpointing:
        return False
    attention, mlp = layer.self_attn, layer.mlp
    outward = (attention.o_proj, mlp.gate_proj, mlp.up_proj, mlp.down_proj)
    linear = (attention.q_proj, attention.k_proj, attention.v_proj, *outward)
    return (
        all(type(m) is nn.Linear and m.weight.dtype == torch.float32 for m in linear)
        and all(m.bias is None for m in outward)
        and type(layer.input_layernorm) is type(layer.post_attention_layernorm) is norm_type
        and getattr(attention, "sliding_window", None) is None
        and not (layer.training and attention.attention_dropout)
    )


def read(base: nn.Module, ids: Tensor, places: Tensor, cache: list | None = None) -> Tensor:
    """Last hidden states (B, S, d) of rows ids (B, L) at `places` (B, S), columns of ids. Differentiable.

    Args:
        cache: every layer's keys and values (B, G, L, D) are appended to it.
    """
    rope = rotations(base, torch.arange(ids.shape[1]))
    x = embed(base.embed_tokens, ids.flatten())
    mask = torch.full((ids.shape[1], ids.shape[1]), float("-inf")).triu_(1)
    for layer in base.layers:
        last = layer is base.layers[-1]
        q, k, v = project(layer, x, places if last else None, ids.shape, rope)
        if last:
            seen = torch.arange(ids.shape[1]) <= places[..., None]
            mask = torch.zeros(seen.shape).masked_fill_(~seen, float("-inf"))
            x = x.index_select(0, _flat(places, ids.shape[1]))
        x = finish(layer, _attend(q, k, v, mask), x)
        if cache is not None:
            cache.append((k, v))
    return _Norm.apply(x, base.norm.weight, base.norm.variance_epsilon).view(*places.shape, -1)


def embed(table: nn.Embedding, ids: Tensor) -> Tensor:
    """Rows ids (n,) of the table: (n, d). Where one process trains it, their gradient is added in place.

    Autograd would write a gradient of the whole table for every forward, and add it to the one before: for a large
    vocabulary that costs more than the decoder's products.
    """
    weight = table.weight
    watched = weight._backward_hooks or weight._post_accumulate_grad_hooks or torch.distributed.is_initialized()
    if watched or not (weight.requires_grad and weight.is_leaf and torch.is_grad_enabled()):
        return F.embedding(ids, weight, table.padding_idx)
    return _Lookup.apply(weight, ids, table.padding_idx)


def rotations(base: nn.Module, positions: Tensor) -> tuple[Tensor, Tensor]:
    """cos and sin of the rotary angles at positions (...): (..., D / 2) each, for both halves turn alike."""
    cos, sin = base.rotary_emb(base.embed_tokens.weight, positions.view(1, -1))
    half = cos.shape[-1] // 2
    return tuple(t[0, :, :half].contiguous().view(*positions.shape, half) for t in (cos, sin))


def _flat(places: Tensor, width: int) -> Tensor:
    return (places + torch.arange(len(places))[:, None] * width).flatten()


def project(layer: nn.Module, x: Tensor, places: Tensor | None, shape, rope) -> tuple[Tensor, Tensor, Tensor]:
    """x (n, d) -> rotated queries (B, H, S or L, D), rotated keys and values (B, G, L, D)."""
    norm, a = layer.input_layernorm, layer.self_attn
    parts = [p for m in (a.q_proj, a.k_proj, a.v_proj) for p in (m.weight, m.bias)]
    return _Project.apply(x, norm.weight, *parts, norm.variance_epsilon, places, tuple(shape), rope, a.head_dim)


def finish(layer: nn.Module, context: Tensor, x: Tensor) -> Tensor:
    """Output projection, residual, norm, MLP, residual: context (B, H, S, D) and x (B S, d) -> (B S, d)."""
    norm, mlp = layer.post_attention_layernorm, layer.mlp
    weights = (layer.self_attn.o_proj.weight, mlp.gate_proj.weight, mlp.up_proj.weight, mlp.down_proj.weight)
    return _Finish.apply(context, x, norm.weight, *weights, norm.variance_epsilon)


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """Attention of q (B, H, S, D) over k, v (B, G, L, D); mask (S, L) or (B, S, L), -inf on what is not seen."""
    if q.shape[0] * q.shape[1] * q.shape[2] * k.shape[2] <= SMALL_ATTENTION:
        return _Attend.apply(q, k, v, mask)
    groups = q.shape[1] // k.shape[1]
    k, v = (t.repeat_interleave(groups, 1) for t in (k, v))
    if mask.dim() == 2:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None])


# ---- the arithmetic, forward and backward ----


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """h = x r w with r = 1 / sqrt(mean(x^2) + eps): h (n, d) and r (n, 1)."""
    square = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_()
    r = square.div_(x.shape[-1]).add_(eps).rsqrt_()
    return (x * r).mul_(weight), r


def rms_norm_backward(dh: Tensor, x: Tensor, weight: Tensor, r: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    """dx = r (dh w - x r mean(dh w x r)), and dw = sum(dh x r); h = x r w is overwritten."""
    torch.mul(x, r, out=h)
    product = dh * h
    along = (product @ weight).div_(-x.shape[-1])[:, None]
    dw = product.sum(0)
    return torch.mul(dh, weight, out=product).addcmul_(h, along).mul_(r), dw


def turn(x: Tensor, out: Tensor, rope: tuple[Tensor, Tensor], back: bool = False) -> None:
    """Rotate pairs (a, b) = (x_i, x_{i + D/2}): (a cos - b sin, b cos + a sin). x, out: (B, H, S, D) in any layout."""
    cos, sin = rope
    half, sign = cos.shape[-1], -1 if back else 1
    a, b, first, second = x[..., :half], x[..., half:], out[..., :half], out[..., half:]
    torch.mul(a, cos, out=first)
    first.addcmul_(b, sin, value=-sign)
    torch.mul(b, cos, out=second)
    second.addcmul_(a, sin, value=sign)


def _heads(x: Tensor, batch: int, size: int) -> Tensor:
    """(B S, H D) as (B, H, S, D), without a copy."""
    return x.view(batch, x.shape[0] // batch, -1, size).transpose(1, 2)


def _rotated(x: Tensor, batch: int, size: int, rope) -> Tensor:
    x = _heads(x, batch, size)
    out = x.new_empty(x.shape)
    turn(x, out, rope)
    return out


def _unrotated(x: Tensor, rope) -> Tensor:
    batch, heads, steps, size = x.shape
    out = x.new_empty(batch, steps, heads, size)
    turn(x, out.transpose(1, 2), rope, back=True)
    return out.view(batch * steps, heads * size)


def _rope_at(rope, places: Tensor | None):
    return rope if places is None else tuple(t[places][:, None] for t in rope)


class _Lookup(torch.autograd.Function):
    @staticmethod
    def forward(ctx, weight, ids, padding_idx):
        ctx.weight, ctx.ids, ctx.padding_idx = weight, ids, padding_idx
        return weight.detach().index_select(0, ids)

    @staticmethod
    def backward(ctx, dout):
        if ctx.padding_idx is not None:
            dout = dout.masked_fill(ctx.ids[:, None] == ctx.padding_idx, 0.0)  # as nn.Embedding has it
        if ctx.weight.grad is None:
            ctx.weight.grad = torch.zeros_like(ctx.weight)
        ctx.weight.grad.index_add_(0, ctx.ids, dout)
        return None, None, None


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, eps):
        h, r = rms_norm(x, weight, eps)
        ctx.save_for_backward(x, weight, r)
        return h

    @staticmethod
    def backward(ctx, dh):
        x, weight, r = ctx.saved_tensors
        return (*rms_norm_backward(dh, x, weight, r, torch.empty_like(x)), None)


class _Project(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, norm, wq, bq, wk, bk, wv, bv, eps, places, shape, rope, size):
        batch, width = shape
        h, r = rms_norm(x, norm, eps)
        asked = h if places is None else h.index_select(0, _flat(places, width))
        q = _rotated(F.linear(asked, wq, bq), batch, size, _rope_at(rope, places))
        k = _rotated(F.linear(h, wk, bk), batch, size, rope)
        v = _heads(F.linear(h, wv, bv), batch, size).contiguous()
        ctx.save_for_backward(x, norm, r, wq, wk, wv)
        ctx.places, ctx.width, ctx.rope = places, width, rope
        return q, k, v

    @staticmethod
    def backward(ctx, dq, dk, dv):
        x, norm, r, wq, wk, wv = ctx.saved_tensors
        dq = _unrotated(dq, _rope_at(ctx.rope, ctx.places))
        dk = _unrotated(dk, ctx.rope)
        dv = dv.transpose(1, 2).reshape(len(x), -1)
        h = (x * r).mul_(norm)
        dh = torch.addmm(dk @ wk, dv, wv)
        if ctx.places is None:
            asked = h
            dh.addmm_(dq, wq)
        else:
            index = _flat(ctx.places, ctx.width)
            asked = h.index_select(0, index)
            dh.index_add_(0, index, dq @ wq)
        need = ctx.needs_input_grad
        products = [g.t() @ value if need[i] else None for i, g, value in ((2, dq, asked), (4, dk, h), (6, dv, h))]
        biases = [g.sum(0) if need[i] else None for i, g in ((3, dq), (5, dk), (7, dv))]
        dx, dnorm = rms_norm_backward(dh, x, norm, r, h)
        pairs = [grad for pair in zip(products, biases, strict=True) for grad in pair]
        return dx, dnorm, *pairs, None, None, None, None, None


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, v, mask):
        batch, heads, steps, size = q.shape
        groups = k.shape[1]
        # the heads that share a key-value head become rows of one product
        rows = (q * size**-0.5).view(batch * groups, -1, size)
        k, v = (t.reshape(batch * groups, -1, size) for t in (k, v))
        p = torch.bmm(rows, k.transpose(1, 2)).view(batch, heads, steps, -1)
        p += mask if mask.dim() == 2 else mask[:, None]
        p = torch.softmax(p, -1).view(batch * groups, -1, k.shape[1])
        ctx.save_for_backward(rows, k, v, p)
        return torch.bmm(p, v).view(q.shape)

    @staticmethod
    def backward(ctx, dout):
        rows, k, v, p = ctx.saved_tensors
        batch, heads, steps, size = dout.shape
        dout = dout.reshape(rows.shape)
        dv = torch.bmm(p.transpose(1, 2), dout)
        dp = torch.bmm(dout, v.transpose(1, 2))
        ds = torch._softmax_backward_data(dp, p, -1, p.dtype)
        dq = torch.bmm(ds, k).mul_(size**-0.5).view(batch, heads, steps, size)
        dk = torch.bmm(ds.transpose(1, 2), rows)
        shape = (batch, len(k) // batch, -1, size)
        return dq, dk.view(shape), dv.view(shape), None


class _Finish(torch.autograd.Function):
    @staticmethod
    def forward(ctx, context, x, norm, wo, wg, wu, wd, eps):
        joined = context.transpose(1, 2).reshape(len(x), -1)
        middle = torch.addmm(x, joined, wo.t())
        h, r = rms_norm(middle, norm, eps)
        gate, up = h @ wg.t(), h @ wu.t()
        out = torch.addmm(middle, F.silu(gate).mul_(up), wd.t())
        ctx.save_for_backward(joined, middle, r, norm, gate, up, wo, wg, wu, wd)
        ctx.shape = context.shape
        return out

    @staticmethod
    def backward(ctx, dout):
        joined, middle, r, norm, gate, up, wo, wg, wu, wd = ctx.saved_tensors
        need = ctx.needs_input_grad
        dout = dout.contiguous()
        silu = F.silu(gate)
        dact = dout @ wd
        dup = dact * silu
        dwd = dout.t() @ silu.mul_(up) if need[6] else None
        dgate = torch.ops.aten.silu_backward(dact.mul_(up), gate)
        h = (middle * r).mul_(norm)
        dwg = dgate.t() @ h if need[4] else None
        dwu = dup.t() @ h if need[5] else None
        dx, dnorm = rms_norm_backward(torch.addmm(dgate @ wg, dup, wu), middle, norm, r, h)
        dx += dout
        dwo = dx.t() @ joined if need[3] else None
        batch, heads, steps, size = ctx.shape
        dcontext = (dx @ wo).view(batch, steps, heads, size).transpose(1, 2)
        return dcontext, dx, dnorm, dwo, dwg, dwu, dwd, None
