"""When the orders of a load run are due: schedules of an open loop, repeated by their seed."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping
from itertools import accumulate, repeat

Arrivals = Callable[[int, float, random.Random], Iterator[float]]


def steady(orders: int, rate: float, _: random.Random) -> Iterator[float]:
    """Yield evenly spaced seconds."""
    return (number / rate for number in range(orders))


def poisson(orders: int, rate: float, rng: random.Random) -> Iterator[float]:
    """Yield the seconds of customers who know nothing of each other: gaps are exponential, of the mean 1 / rate."""
    return accumulate(rng.expovariate(rate) for _ in repeat(None, orders))


def ramp(orders: int, rate: float, _: random.Random) -> Iterator[float]:
    """Yield seconds at a rate that rises evenly from nothing to twice the rate asked."""
    return (math.sqrt(number * orders) / rate for number in range(orders))


ARRIVALS: Mapping[str, Arrivals] = {"steady": steady, "poisson": poisson, "ramp": ramp}
