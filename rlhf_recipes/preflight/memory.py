"""Memory of a decoder in training and generation: arithmetic on its shape. Everything is in bytes.

Activations are counted as arXiv:2205.05198 (Korthikanti et al., "Reducing Activation Recomputation in Large Transformer
Models") section 4.1 does: tensor by tensor, what a layer's backward pass reads. Their layer is GPT-2's in 16 bits with
dropout, s b h (34 + 5 a s / h) bytes; here it is whatever the config describes, with the kernels of transformers.
"""

from dataclasses import dataclass

from rlhf_recipes.preflight.shapes import Shape

FLOAT = 4  # bytes of a float32
SIZES = {"float32": 4, "float": 4, "bfloat16": 2, "float16": 2, "half": 2, "float64": 8}
SFT_CHUNK = 256  # tokens whose logits TRL's chunked loss holds at once (trl/trainer/sft_trainer.py)
SFT_COPIES = 4  # of those logits: log-softmax, its exponent, and a gradient of either
PPO_CHUNK = 2**25  # logits that PPO holds at once: rlhf_recipes.engine.logprobs.CHUNK_ELEMENTS
# glibc takes blocks of 32 MiB and more from the system and gives them back; what is freed of smaller ones stays with
# the process (mallopt(3), M_MMAP_THRESHOLD). Both shares were measured with benchmarks/preflight.py.
LARGE = 2**25
HELD = 0.8  # of the small activations, when the backward pass ends: gradients fit into the rest
CUT_UP = 0.35  # beside them, where generation has cut the heap up before: free, and too small for the next
# Bytes of optimizer state for each byte of a trained float32 parameter (transformers' names). Adam: two moments.
STATES = {
    "adamw_torch": 2.0,
    "adamw_torch_fused": 2.0,
    "adamw_bnb_8bit": 0.5,
    "adamw_8bit": 0.5,
    "paged_adamw_8bit": 0.5,
    "lion_32bit": 1.0,
    "lion_8bit": 0.25,
    "adafactor": 0.0,  # a row and a column for each matrix
    "sgd": 0.0,
    "rmsprop": 1.0,
    "adagrad": 1.0,
}


@dataclass(frozen=True)
class Numbers:
    """How wide numbers are, in bytes.

    Args:
        weight: of a weight that lies in memory.
        product: of what matrix products read and write; 2 under autocast.
        norm: of the residual stream and of what norms compute in.
    """

    weight: float = FLOAT
    product: int = FLOAT
    norm: int = FLOAT


@dataclass(frozen=True)
class Batch:
    """Rows of one forward, each `length` tokens long. masked: an attention mask is given, for rows are padded."""

    rows: int
    length: int
    masked: bool = False

    @property
    def tokens(self) -> int:
        return self.rows * self.length


def weights(shape: Shape, numbers: Numbers) -> float:
    """Whole model, and its adapter in float32."""
    return shape.parameters * numbers.weight + (shape.adapter or 0) * FLOAT


def gradients(shape: Shape, numbers: Numbers) -> float:
    """One element for each trained one, as wide as it; adapters are float32."""
    return shape.trained * (numbers.weight if shape.adapter is None else FLOAT)


def optimizer(shape: Shape, numbers: Numbers, name: str) -> float:
    """State beside the trained weights: Adam keeps two moments, 8 bytes a float32 parameter."""
    return STATES.get(name, 2.0) * gradients(shape, numbers)


def layer(shape: Shape, batch: Batch, numbers: Numbers, eager: bool = False, dropout: bool = False) -> list[float]:
    """Every tensor that autograd keeps of one layer, bytes each: counted as in section 4.1 of arXiv:2205.05198.

    Args:
        shape, batch, numbers: of the model and one forward.
        eager: attention scores are written out, (B, heads, L, L); SDPA keeps one number a head and token instead.
        dropout: the network's own dropout is on (it is off in PPO).
    """
    narrow = numbers.product
    kept = norms(shape, numbers) + attention(shape, batch, numbers, eager or (dropout and shape.attention_dropout))
    # gate, silu(gate), value and their product; or what an ungated MLP's activation function keeps
    kept += [shape.inner * narrow] * (4 if shape.gated else shape.activation)
    if narrow < numbers.norm and shape.gated:
        kept += [shape.hidden * narrow] * 3  # autocast narrows the input of q, k, v, gate and value for each anew
    if dropout and shape.dropout:
        kept += [shape.hidden * FLOAT] * 2  # a mask after attention and after the MLP
    return [batch.tokens * width for width in [*kept, shape.ranks * FLOAT]]


def norms(shape: Shape, numbers: Numbers) -> list[float]:
    """Bytes a token that the norms of a layer keep: their input, and their output, which the next matrix reads.

    One that is written out (RMSNorm) also keeps the normalised input while its weight is trained, and 1 / rms. Norms
    on the heads (Qwen3) have no matrix behind them.
    """
    copies = 1 if shape.fused_norms or shape.adapter is not None else 2
    kept = []
    for width in shape.norms:
        if width >= shape.hidden:
            kept += [width * numbers.norm] * copies + [width * numbers.product, FLOAT * (1 + shape.fused_norms)]
        else:
            heads = (shape.heads + shape.kv_heads) / 2  # one norm is on the queries, one on the keys
            kept += [heads * width * numbers.norm, heads * FLOAT] + [heads * width * numbers.product] * (copies - 1)
    return kept


def attention(shape: Shape, batch: Batch, numbers: Numbers, eager: bool) -> list[float]:
    """Bytes a token that attention keeps: q, k, v, its output, and what softmax needs.

    Grouped keys and values are repeated for every head where a mask is given (transformers' sdpa_attention_forward and
    every eager attention), except a single one, which is a view.
    """
    narrow = numbers.product
    repeated = (batch.masked or eager) and shape.kv_heads > 1
    kept = [shape.query * narrow] * 2 + [(shape.query if repeated or eager else shape.key) * narrow] * 2
    if eager:  # softmax's result in float32, and what the product with v reads, where that is narrower
        scores = shape.heads * batch.length
        return [*kept, scores * FLOAT, *([scores * narrow] if narrow < FLOAT else [])]
    if batch.masked:
        kept.append(batch.length * narrow)  # the mask as numbers, (B, 1, L, L), made anew in every layer
    return [*kept, shape.heads * FLOAT]  # logsumexp


def passing(shape: Shape, batch: Batch, numbers: Numbers, eager: bool = False) -> float:
    """Alive at once in a forward without gradients: the widest place of one layer, and the residual stream.

    In the MLP: residual, norm, and two or three vectors of `inner`. In eager attention: scores, scaled and masked.
    """
    mlp = (3 if shape.gated else 2) * shape.inner * numbers.product
    attention = (3 * shape.query + 4 * shape.key) * numbers.product
    if eager:
        attention += 3 * shape.heads * batch.length * FLOAT
    elif batch.masked:
        attention += batch.length * (1 + numbers.product)
    return batch.tokens * (2 * shape.hidden * numbers.norm + max(mlp, attention))


@dataclass(frozen=True)
class Kept:
    """Activations of a forward pass. small: those of them that lie in blocks below LARGE."""

    bytes: float
    small: float


def activations(
    shape: Shape,
    batch: Batch,
    numbers: Numbers,
    checkpointing: bool,
    eager: bool = False,
    dropout: bool = False,
) -> Kept:
    """Kept for a backward pass, with what the backward of one layer holds beside it.

    With gradient checkpointing each layer keeps its input alone, and one layer at a time is computed again.
    """
    one = layer(shape, batch, numbers, eager, dropout)
    ends = [shape.hidden * numbers.norm] * 2 + [shape.hidden * numbers.product]  # the last norm
    working = [shape.inner * numbers.product] * (2 if shape.gated else 1) + [shape.hidden * FLOAT] * 2
    tensors = one + [batch.tokens * width for width in ends + working]
    tensors += ([batch.tokens * shape.hidden * numbers.norm] if checkpointing else one) * (shape.layers - 1)
    return Kept(sum(tensors), sum(size for size in tensors if size < LARGE))


def kv_cache(shape: Shape, batch: Batch, numbers: Numbers) -> float:
    """Keys and values of every layer, and of one layer twice while a token is appended."""
    width = numbers.product if numbers.weight <= FLOAT else numbers.weight
    return 2 * (shape.layers + 1) * shape.key * width * batch.tokens


def head_gradient(shape: Shape) -> float:
    """(V, d) once more while a step's gradient of the lm_head or the embedding is on its way to the parameter."""
    return shape.embedding * FLOAT if shape.adapter is None else 0.0


def sft_logits(shape: Shape, chunked: bool, batch: Batch) -> float:
    """Of TRL's loss: SFT_CHUNK tokens at a time, or (B, L, V) whole in float32 with its log-softmax and gradient."""
    return SFT_COPIES * SFT_CHUNK * shape.vocab * FLOAT if chunked else whole_logits(shape, batch.tokens, 3)


def whole_logits(shape: Shape, tokens: int, copies: int) -> float:
    """(tokens, V) in float32, several times over."""
    return copies * tokens * shape.vocab * FLOAT


def ppo_logits(shape: Shape, tokens: int, numbers: Numbers) -> float:
    """The one buffer of engine.logprobs: PPO_CHUNK elements, at least 16 tokens, and no more than there are."""
    return min(tokens, max(16, PPO_CHUNK // shape.vocab)) * shape.vocab * numbers.product
