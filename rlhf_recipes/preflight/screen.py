"""What preflight says, as lines of text."""

from rlhf_recipes.preflight.disk import Disk
from rlhf_recipes.preflight.fit import Way
from rlhf_recipes.preflight.machine import Machine
from rlhf_recipes.preflight.phases import Phase, peak
from rlhf_recipes.preflight.setting import Setting


def size(amount: float) -> str:
    """Bytes for a person: «1.98 GB», «340 MB».

    >>> size(1_976_000_000), size(340e6)
    ('1.98 GB', '340 MB')
    """
    return f"{amount / 1e9:.2f} GB" if amount >= 1e9 else f"{amount / 1e6:.0f} MB"


def models(setting: Setting) -> list[str]:
    """One line a model: what is loaded, and how much of it is trained."""
    lines = []
    for network in setting.networks:
        shape = network.shape
        share = "all trained" if shape.adapter is None else f"{shape.adapter / 1e6:.2f} M of an adapter trained"
        trained = share if network.trained else "frozen"
        lines.append(
            f"  {network.part:<10} {shape.name or 'model'}, {shape.parameters / 1e6:.1f} M parameters of "
            f"{network.numbers.weight:.3g} bytes, {trained}"
        )
    return lines


def table(found: list[Phase]) -> list[str]:
    """Memory by part at the largest moment and at its own largest, and the total of every moment."""
    top = peak(found)
    names = list(dict.fromkeys(name for phase in found for name in phase.parts))
    lines = [f"  {'memory by part':<16} {'at the peak':>12} {'at most':>12}"]
    for name in names:
        most = max(phase.parts.get(name, 0.0) for phase in found)
        lines.append(f"  {name:<16} {size(top.parts.get(name, 0.0)):>12} {size(most):>12}")
    lines.append(f"  {'together':<16} {size(top.total):>12}")
    lines.append("  by moment: " + " · ".join(f"{phase.name} {size(phase.total)}" for phase in found))
    return lines


def disk(wanted: Disk, free: float) -> str:
    """One line: what is written, and the room there is."""
    kept = f"{wanted.count} checkpoints of {size(wanted.checkpoint)} at once, and " if wanted.count else ""
    return f"disk: {size(wanted.total)} of {size(free)} free: {kept}the model, {size(wanted.model)}"


def verdict(total: float, machine: Machine) -> str:
    """One line: whether it fits."""
    share = f"{size(total)} at the peak, {size(machine.free)} free ({machine.name})"
    return f"verdict: {'fits' if total <= machine.free else 'WILL NOT FIT'}: {share}"


def remedies(ways: list[Way], largest: float) -> list[str]:
    """The ways out of too little memory, one a line; largest: parameters of a model that would fit as it is."""
    instead = f"a model of {largest / 1e6:,.1f} M parameters would" if largest else "the libraries alone are too much"
    if not ways:
        return [f"  no setting makes it smaller; {instead}"]
    fits = any(way.fits for way in ways)
    return [*_listed(ways), *([] if fits else [f"  {instead}"])]


def more_room(ways: list[Way], place: str) -> list[str]:
    """The ways out of too small a disk; place: the setting that names another."""
    return [*(_listed(ways) if ways else []), f"  or another disk: {place}=<folder>"]


def _listed(ways: list[Way]) -> list[str]:
    fits = any(way.fits for way in ways)
    lines = ["  what would make it fit:" if fits else "  nothing here makes it fit; what helps most:"]
    return lines + [
        f"  {size(w.bytes):>10} {'fits    ' if w.fits else 'too much'} {' '.join(w.overrides)}" for w in ways
    ]
