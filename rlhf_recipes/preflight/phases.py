"""What each stage holds in memory at each of its moments. The largest of them is what has to fit.

A part that is freed by then does not count: gradients are gone while a batch is evaluated, and with one micro-batch a
step they are not there yet when the forward pass ends. Activations are gone when the last gradient arrives, on a GPU;
on a CPU the allocator keeps most of them (memory.HELD, memory.CUT_UP).
"""

from collections.abc import Iterator
from dataclasses import dataclass

from rlhf_recipes.preflight import memory
from rlhf_recipes.preflight.memory import Batch
from rlhf_recipes.preflight.setting import Network, Setting, scorers

SCORED_AT_ONCE = 64  # answers a forward of a reward model: rlhf_recipes.rewards.model.ModelReward
FILE_ROWS = 16  # rows of stage=score that are scored together: rlhf_recipes.rewards.score
# Padded tokens of a forward, and its logits in bytes: rlhf_recipes.evaluation.likelihood.logprobs
JUDGED_TOKENS, JUDGED_LOGITS = 16384, 256 * 2**20
PROBE = (4, 32)  # rows and tokens with which a merge is checked: rlhf_recipes.export.merge.probe


@dataclass(frozen=True)
class Phase:
    """One moment of a stage: bytes by part."""

    name: str
    parts: dict[str, float]

    @property
    def total(self) -> float:
        return sum(self.parts.values())


def phases(setting: Setting) -> list[Phase]:
    """Every moment of a stage that could be its largest."""
    found = list(_loading(setting))
    match setting.cfg.stage:
        case "pretrain" | "sft":
            found += _language(setting)
        case "reward":
            found += _reward(setting)
        case "dpo":
            found += _preferences(setting)
        case "ppo":
            found += _ppo(setting)
        case "grpo":
            found += _grpo(setting)
        case "collect" | "evaluate":
            found += _answering(setting)
        case "score":
            found += _judging(setting, FILE_ROWS, setting.rows.whole)
        case "chat":
            found += _talking(setting)
        case "export":
            found += _merging(setting)
    return found or [Phase("no model", {"libraries": setting.libraries})]


def peak(found: list[Phase]) -> Phase:
    return max(found, key=lambda phase: phase.total)


def _at(setting: Setting, name: str, **parts: float) -> Phase:
    """A moment after loading: libraries, every model, and these parts."""
    resident = {"libraries": setting.libraries}
    for network in setting.networks:
        resident[network.part] = resident.get(network.part, 0.0) + network.bytes
    return Phase(name, resident | {key: value for key, value in parts.items() if value})


def _loading(setting: Setting) -> Iterator[Phase]:
    """Models are read one after another. A file in other numbers than the model's lies beside it until it is closed;
    one in the same numbers is the model."""
    resident = {"libraries": setting.libraries}
    for network in setting.networks:
        resident[network.part] = resident.get(network.part, 0.0) + network.bytes
        file = network.shape.parameters * memory.SIZES.get(network.shape.dtype, memory.FLOAT)
        other = setting.machine.device == "cpu" and file != network.shape.parameters * network.numbers.weight
        yield Phase(f"loading the {network.part}", resident | ({"file being read": file} if other else {}))


def _steps(setting: Setting, batch: Batch, logits: float, learners: list[Network]) -> Iterator[Phase]:
    """The end of a forward pass and the end of a backward pass of one micro-batch."""
    args = setting.args
    kept = [
        memory.activations(n.shape, batch, n.numbers, args.gradient_checkpointing, setting.eager, setting.dropout)
        for n in learners
    ]
    small = sum(k.small for k in kept) if setting.machine.device == "cpu" else 0.0
    cut_up = memory.CUT_UP * small if setting.cfg.stage in ("ppo", "grpo") else 0.0
    yield _at(
        setting,
        "forward pass",
        gradients=setting.gradients if accumulates(setting) else 0.0,
        optimizer=setting.optimizer,
        activations=sum(k.bytes for k in kept) + sum(_casts(n) for n in learners) + cut_up,
        logits=logits,
    )
    yield _at(
        setting,
        "backward pass",
        gradients=setting.gradients + max(memory.head_gradient(n.shape) for n in learners),
        optimizer=setting.optimizer,
        activations=memory.HELD * small + cut_up,
    )


def _casts(network: Network) -> float:
    """Autocast's 16-bit copies of float32 matrices, kept until the forward pass ends."""
    return network.shape.parameters * 2 if network.numbers.product < network.numbers.weight else 0.0


def accumulates(setting: Setting) -> bool:
    """Whether gradients of an earlier micro-batch lie in memory while a later one is computed."""
    args = setting.args
    if setting.cfg.stage != "ppo":
        return args.gradient_accumulation_steps > 1
    local = args.per_device_train_batch_size * args.gradient_accumulation_steps // args.num_mini_batches
    return local > args.per_device_train_batch_size


def _row(setting: Setting, *, packed: bool = False) -> int:
    """Tokens of the longest row a trainer sees."""
    limit = getattr(setting.args, "max_length", None)
    if packed and limit:
        return limit
    return min(n for n in (setting.rows.whole, limit) if n)


def _language(setting: Setting) -> Iterator[Phase]:
    """TRL's SFTTrainer."""
    args, policy = setting.args, setting.find("policy")
    batch = Batch(args.per_device_train_batch_size, _row(setting, packed=args.packing), masked=not args.packing)
    chunked = args.loss_type == "chunked_nll"
    yield from _steps(setting, batch, memory.sft_logits(policy.shape, chunked, batch), [policy])
    if str(args.eval_strategy) != "no":
        held = Batch(args.per_device_eval_batch_size, batch.length, masked=True)
        yield _at(
            setting,
            "evaluation",
            optimizer=setting.optimizer,
            activations=memory.passing(policy.shape, held, policy.numbers, setting.eager),
            logits=memory.sft_logits(policy.shape, chunked, held),
        )


def _reward(setting: Setting) -> Iterator[Phase]:
    """TRL's RewardTrainer: chosen and rejected in one forward; then the scores of held-out pairs."""
    args, policy = setting.args, setting.find("policy")
    length = _row(setting)
    yield from _steps(setting, Batch(2 * args.per_device_train_batch_size, length, masked=True), 0.0, [policy])
    most = max(2 * args.per_device_eval_batch_size, SCORED_AT_ONCE)
    yield _at(
        setting,
        "scoring held-out pairs",
        optimizer=setting.optimizer,
        activations=memory.passing(policy.shape, Batch(most, length, masked=True), policy.numbers, setting.eager),
    )


def _preferences(setting: Setting) -> Iterator[Phase]:
    """TRL's DPOTrainer: both answers in one forward, whole logits of the policy, and of the reference beside them."""
    args, policy = setting.args, setting.find("policy")
    batch = Batch(2 * args.per_device_train_batch_size, _row(setting), masked=True)
    yield from _steps(setting, batch, memory.whole_logits(policy.shape, batch.tokens, 3), [policy])


def _ppo(setting: Setting) -> Iterator[Phase]:
    """rlhf_recipes.ppo: answer, judge, then learn with policy and critic in one backward pass."""
    args, policy, critic = setting.args, setting.find("policy"), setting.find("critic")
    local = args.per_device_train_batch_size * args.gradient_accumulation_steps
    at_once = min(args.local_rollout_forward_batch_size, max(local, args.per_device_eval_batch_size))
    whole = setting.rows.prompt + args.response_length
    yield _generation(setting, at_once, setting.rows.prompt, args.response_length)
    judged = Batch(at_once, whole)
    readers = [n for n in setting.networks if n.part != "reward"]
    scored = Batch(min(SCORED_AT_ONCE, local), whole, masked=True)
    yield _at(
        setting,
        "scoring the answers",
        optimizer=setting.optimizer,
        activations=max(
            [memory.passing(n.shape, judged, n.numbers, setting.eager) for n in readers]
            + [memory.passing(n.shape, scored, n.numbers, setting.eager) for n in setting.networks if n not in readers]
        ),
        logits=memory.ppo_logits(policy.shape, at_once * args.response_length, policy.numbers),
    )
    micro = Batch(min(args.per_device_train_batch_size, max(1, local // args.num_mini_batches)), whole)
    learners = [n for n in (policy, critic) if n is not None]
    logits = memory.ppo_logits(policy.shape, micro.rows * args.response_length, policy.numbers)
    yield from _steps(setting, micro, logits + memory.head_gradient(policy.shape), learners)


def _grpo(setting: Setting) -> Iterator[Phase]:
    """TRL's GRPOTrainer: transformers' generate, then a forward over the answers with their logits whole."""
    args, policy = setting.args, setting.find("policy")
    rows, prompt, answer = args.per_device_train_batch_size, setting.rows.prompt, args.max_completion_length
    yield _generation(setting, rows * args.steps_per_generation, prompt, answer)
    batch = Batch(rows, prompt + answer, masked=True)
    yield from _steps(setting, batch, memory.whole_logits(policy.shape, rows * answer, 3), [policy])


def _answering(setting: Setting) -> Iterator[Phase]:
    """Generation by a frozen model, as collect and evaluate do it; then its answers are scored and read."""
    own, prompt = setting.cfg[setting.cfg.stage], setting.rows.prompt
    whole = prompt + own.max_new_tokens
    policy = setting.find("policy")
    if policy is not None:
        yield _generation(setting, own.batch_size, prompt, own.max_new_tokens)
    if policy is not None and setting.cfg.stage == "evaluate":
        yield _reading(setting, policy, own.prompts, whole)
    yield from _judging(setting, SCORED_AT_ONCE, whole)


def _reading(setting: Setting, policy: Network, prompts: int, whole: int) -> Phase:
    """Log-probabilities of answers, demonstrations and plain texts, as many tokens in a forward as there are."""
    own = setting.cfg.evaluate
    room = int(min(JUDGED_TOKENS, JUDGED_LOGITS / (policy.shape.vocab * memory.FLOAT)))
    rows = max(1, min(max(prompts, own.ppl_rows, own.corpus_rows), room // whole))
    batch = Batch(rows, whole, masked=True)
    return _at(
        setting,
        "log-probabilities",
        activations=memory.passing(policy.shape, batch, policy.numbers, setting.eager),
        logits=memory.whole_logits(policy.shape, batch.tokens, 1),
    )


def _judging(setting: Setting, rows: int, whole: int) -> Iterator[Phase]:
    """Rows through every model of the reward signal, one after another."""
    batches = [scorer.batch for scorer in scorers(setting.cfg, setting.run)]
    readers = [n for n in setting.networks if n.part == "reward"]
    passing = [
        memory.passing(n.shape, Batch(min(rows, at_once), whole, masked=True), n.numbers, setting.eager)
        for n, at_once in zip(readers, batches, strict=True)
    ]
    if passing:
        yield _at(setting, "scoring the answers", activations=max(passing))


def _talking(setting: Setting) -> Iterator[Phase]:
    """One answer at a time, at the end of a talk of `rows.whole` tokens; every model that talks stays in memory."""
    answer = setting.rows.whole - setting.rows.prompt
    for network in {n.shape: n for n in setting.networks}.values():
        yield _generation(setting, 1, setting.rows.prompt, answer, network)


def _merging(setting: Setting) -> Iterator[Phase]:
    """Adapters are merged in place, a few rows read before and after; then the model is cast and written."""
    network = setting.networks[0]
    batch = Batch(*PROBE)
    yield _at(
        setting,
        "checking the merge",
        activations=memory.passing(network.shape, batch, network.numbers, setting.eager),
        logits=memory.whole_logits(network.shape, batch.tokens, 3) if network.shape.head else 0.0,
    )


def _generation(setting: Setting, rows: int, prompt: int, answer: int, policy: Network | None = None) -> Phase:
    policy = policy or setting.find("policy")
    return _at(
        setting,
        "generation",
        optimizer=setting.optimizer if setting.args is not None else 0.0,
        **{
            "KV cache": memory.kv_cache(policy.shape, Batch(rows, prompt + answer), policy.numbers),
            "activations": memory.passing(policy.shape, Batch(rows, prompt, True), policy.numbers, setting.eager),
            "logits": memory.whole_logits(policy.shape, rows, 4),  # logits, over temperature, e^x, cumulative
        },
    )
