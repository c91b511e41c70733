"""Models without numbers: real code runs over their shapes, and what it would hold in memory is counted.

A ghost is torch's FakeTensor: a shape, a dtype and a device, and no storage. Inside `haunted` large tensors come out as
ghosts, and whatever is computed from a ghost is one. What is small (token ids, masks, counters) stays real, so that
code which looks at values runs as it is. A ghost that is asked for a value gives a plain one (`_value`). A ghost
that is written into a real tensor is dropped: the tensor keeps what it held.
"""

import weakref
from collections import Counter
from contextlib import contextmanager
from unittest import mock

import numpy
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

aten = torch.ops.aten
REAL = 2**20  # bytes: a new tensor below it stays real
# glibc takes blocks of 32 MiB and more from the system and gives them back (mallopt(3), M_MMAP_THRESHOLD). Smaller ones
# stay with the process when they are freed. They are used again, but what settles between them cuts holes up: as
# measured, they take this share more than is ever alive, and more where an adapter's narrow tensors lie between them.
LARGE = 2**25
CUT_UP, CUT_UP_BY_ADAPTER = 0.2, 0.9
EMPTY = {aten.empty.memory_format, aten.empty_strided.default, aten.empty_like.default, aten.new_empty.default}
FILLED = "zeros ones full rand randn zeros_like ones_like full_like rand_like randn_like new_zeros new_ones new_full"
FACTORIES = EMPTY | {getattr(aten, name).default for name in FILLED.split()}
INDEXED = {aten.index.Tensor, aten._unsafe_index.Tensor, aten.index_put.default, aten.index_put_.default}
TOKENS = {aten.multinomial.default, aten.searchsorted.Tensor, aten.argmax.default}  # drawn from the last axis


class Ledger:
    """Bytes of all storages that are alive on a device, by part, and the largest sum there was.

    Attributes:
        live: {part: bytes now}. peak: bytes at the largest moment; parts: what they were, {part: bytes}.
        moments: {what was going on: bytes alive then, at most}. doing: names it; None: autograd's state tells.
        cut_up: share of small blocks that is lost between them.
    """

    def __init__(self, device: str):
        self.device, self.doing, self.cut_up = device, None, CUT_UP
        self.live: Counter[str] = Counter()
        self.peak, self.parts, self.moments = 0.0, {}, Counter()
        self._known: dict[int, list] = {}  # storage -> [weak reference, bytes, part]
        self._small: Counter[str] = Counter()  # bytes of small blocks now, by part
        self._most = 0  # small activations, at most

    def add(self, tensor: Tensor, part: str | None = None) -> None:
        """Count a tensor's storage until it dies; with `part` under that name from now on."""
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if (entry := self._known.get(key)) is not None:
            if part is not None:
                self._count(entry[2], -size)
                self._count(part, size)
                entry[2] = part
        elif size and tensor.device.type == self.device:
            self._known[key] = [weakref.ref(storage, lambda _: self._died(key)), size, part or "activations"]
            self._count(part or "activations", size)
            self.note()

    def note(self, **more: float) -> None:
        """Compare this moment with the largest; more: bytes beside the storages, by part."""
        parts, doing = {**self.live, **more}, self.doing or _doing()
        self.moments[doing] = max(self.moments[doing], sum(parts.values()))
        if self.device == "cpu":
            parts["kept by malloc"] = (1 + self.cut_up) * self._most - self._small["activations"]
        if (now := sum(parts.values())) > self.peak:
            self.peak, self.parts = now, parts

    def _died(self, key: int) -> None:
        _, size, part = self._known.pop(key)
        self._count(part, -size)

    def _count(self, part: str, size: int) -> None:
        self.live[part] += size
        if abs(size) < LARGE:
            self._small[part] += size
            if self.doing is None:
                self._most = max(self._most, self._small["activations"])


def _doing() -> str:
    if torch._C._current_graph_task_id() != -1:
        return "backward pass"
    return "forward pass" if torch.is_grad_enabled() else "generation and reading"


class Ghosts(TorchDispatchMode):
    """The mode of `haunted`. `fake` makes ghosts of whatever is built inside it, however small."""

    def __init__(self, ledger: Ledger):
        super().__init__()
        self.ledger, self.fake = ledger, FakeTensorMode(allow_non_fake_inputs=True)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if any(isinstance(x, FakeTensor) for x in tree_leaves((args, kwargs))):
            out = _value(func, args, kwargs)
            if out is None:
                out = func(*_by_places(args) if func in INDEXED else args, **kwargs)
        elif func in FACTORIES:
            with self.fake:
                out = func(*args, **kwargs)
            filled = func not in EMPTY or not out.is_floating_point()  # what is not filled may be NaN
            if filled and out.untyped_storage().nbytes() < REAL:
                out = func(*args, **kwargs)
        else:
            out = func(*args, **kwargs)
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self.ledger.add(tensor)
        return out


def _value(func, args, kwargs):
    """What an operation on ghosts gives where it needs their values, else None.

    A number is 0, a count 1, every test is passed; a token drawn is the middle one of the vocabulary, an ordinary word.
    """
    if func is aten._local_scalar_dense.default:
        return True if args[0].dtype == torch.bool else 0.0 if args[0].is_floating_point() else 1
    if func in (aten.equal.default, aten.allclose.default):
        return True
    if func is aten.nonzero.default:
        return torch.ones(args[0].shape, dtype=torch.bool, device=args[0].device).nonzero()
    if func is aten.masked_select.default:
        return args[0].new_empty(args[0].expand(torch.broadcast_shapes(args[0].shape, args[1].shape)).numel())
    if func in TOKENS:
        like = func(*args, **kwargs)
        return torch.full(like.shape, args[0].shape[-1] // 2, dtype=like.dtype, device=like.device)
    return None


def _by_places(args: tuple) -> tuple:
    """Masks among the indices as the places where they are true; a ghost's is true everywhere."""
    places = []
    for index in args[1]:
        if index is None or index.dtype != torch.bool:
            places.append(index)
        else:
            mask = torch.ones(index.shape, dtype=torch.bool) if isinstance(index, FakeTensor) else index
            places += [place.to(index.device) for place in mask.nonzero(as_tuple=True)]
    return (args[0], places, *args[2:])


@contextmanager
def haunted(ledger: Ledger):
    """The mode, and three things that torch does with a tensor's memory done without it."""

    def copied(ghost: FakeTensor, memo: dict) -> Tensor:
        new = ghost.detach().clone()
        if isinstance(ghost, torch.nn.Parameter):
            new = torch.nn.Parameter(new, requires_grad=ghost.requires_grad)
        return memo.setdefault(id(ghost), new)

    def moved(old: FakeTensor, new: FakeTensor) -> None:
        old.data, old.fake_device = new.data, new.fake_device

    with (
        mock.patch.object(FakeTensor, "__deepcopy__", copied),
        mock.patch.object(FakeTensor, "numpy", lambda ghost: numpy.zeros(ghost.shape), create=True),
        mock.patch("torch.utils.swap_tensors", moved),  # Module.to: torch's refuses what is referred to weakly
        Ghosts(ledger) as ghosts,
    ):
        yield ghosts
