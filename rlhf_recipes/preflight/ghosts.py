"""Models without numbers: real code runs over their shapes, and what it would hold in memory is counted.

A ghost is torch's FakeTensor: a shape, a dtype and a device, and no storage. Inside `haunted` large tensors come out as
ghosts, and whatever is computed from a ghost is one. Small tensors (token ids, masks, counters) stay real, so that code
which looks at values runs as it is. A ghost that is written into a real tensor is dropped.
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
# stay with the process when they are freed. They are used again, but what settles between them cuts holes up. As
# measured, they take a fifth more than is ever alive. An adapter's narrow tensors cost 0.7 of it more, at most 400 MB.
LARGE = 2**25
CUT_UP, CUT_UP_BY_ADAPTER, MOST_BY_ADAPTER = 0.2, 0.7, 4e8
EMPTY = {aten.empty.memory_format, aten.empty_strided.default, aten.empty_like.default, aten.new_empty.default}
FILLED = "zeros ones full rand randn zeros_like ones_like full_like rand_like randn_like new_zeros new_ones new_full"
FACTORIES = EMPTY | {getattr(aten, name).default for name in FILLED.split()}
INDEXED = {aten.index.Tensor, aten._unsafe_index.Tensor, aten.index_put.default, aten.index_put_.default}
TOKENS = {aten.multinomial.default, aten.searchsorted.Tensor, aten.argmax.default}  # drawn from the last axis


class Ledger:
    """Bytes of all storages that are alive on a device, by part, and what they were at the largest moment."""

    def __init__(self, device: str):
        self.device, self.cut_up, self.adapter = device, CUT_UP, False
        self.phase: str | None = None  # what is going on; None: autograd's state tells
        self.live: Counter[str] = Counter()  # {part: bytes now}
        self.parts, self.phase_at_peak = {}, ""  # {part: bytes} at the largest moment
        self._known: dict[int, list] = {}  # storage -> [weak reference, bytes, part]
        self._small = self._most = 0  # bytes of small activations now, and at most

    @property
    def peak(self) -> float:
        return sum(self.parts.values())

    def add(self, tensor: Tensor, part: str | None = None) -> None:
        """Count a tensor's storage until it dies; with `part` under that name from now on."""
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key not in self._known and size and tensor.device.type == self.device:
            self._known[key] = [weakref.ref(storage, lambda _: self._died(key)), size, "activations"]
            self._count("activations", size)
        if part is not None and key in self._known:
            self._count(self._known[key][2], -size)
            self._count(part, size)
            self._known[key][2] = part

    def _died(self, key: int) -> None:
        _, size, part = self._known.pop(key)
        self._count(part, -size)

    def _count(self, part: str, size: int) -> None:
        self.live[part] += size
        if abs(size) < LARGE and part == "activations":
            self._small += size
            self._most = max(self._most, self._small) if self.phase is None else self._most
        cut = self.cut_up * self._most + self.adapter * min(CUT_UP_BY_ADAPTER * self._most, MOST_BY_ADAPTER)
        kept = self._most + cut - self._small if self.device == "cpu" else 0.0
        if self.live.total() + kept > self.peak:
            phase = "forward pass" if torch.is_grad_enabled() else "generation and reading"
            backward = torch._C._current_graph_task_id() != -1
            self.parts = {**self.live, "kept by malloc": kept}
            self.phase_at_peak = self.phase or ("backward pass" if backward else phase)


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
        for tensor in filter(torch.is_tensor, tree_leaves(out)):
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
    """The mode, and two things that torch does with a tensor's memory done without it."""

    def moved(old: FakeTensor, new: FakeTensor) -> None:
        old.data, old.fake_device = new.data, new.fake_device

    with (
        mock.patch.object(FakeTensor, "numpy", lambda ghost: numpy.zeros(ghost.shape), create=True),
        mock.patch("torch.utils.swap_tensors", moved),  # Module.to: torch's refuses what is referred to weakly
        Ghosts(ledger) as ghosts,
    ):
        yield ghosts
