"""A progress bar where there is a terminal, and a plain line now and then where there is none."""

import sys
import time
from collections.abc import Iterable, Iterator

PLAIN_EVERY_SECONDS = 15.0


def track(items: Iterable, *, total: int, description: str, weight=lambda item: 1) -> Iterator:
    """Yields `items`, showing how much of `total` is done.

    Args:
        items: what is worked through.
        total: the sum of all weights.
        description: a word or two before the bar.
        weight: how much of `total` an item is.
    """
    from rlhf_recipes.training.progress import terminal

    if terminal():
        from tqdm import tqdm

        with tqdm(total=total, desc=description, file=sys.stderr, leave=False, dynamic_ncols=True) as bar:
            for item in items:
                yield item
                bar.update(weight(item))
        return
    done, start = 0, time.monotonic()
    last = start
    for item in items:
        yield item
        done += weight(item)
        now = time.monotonic()
        if now - last >= PLAIN_EVERY_SECONDS and done < total:
            left = (now - start) * (total - done) / max(done, 1)
            print(f"{description}: {done} of {total}, about {left:.0f} s left", file=sys.stderr, flush=True)
            last = now
