"""A second implementation of views, written from storage/FORMAT.md alone."""

from statistics import NormalDist

import numpy as np


def view_of(values, dtype, seed, steps):
    """The view of one sample: `values` of an input of that type; `steps` are those of the spec."""
    values = np.array(values, dtype)
    if seed % 2**64 == 0:
        return values
    for place, step in enumerate(steps):
        draws = _Words(seed, place)
        if "drop" not in step["kind"] and draws.uniform(0) >= step["p"]:
            continue
        changed = _VIEWS[step["kind"]](values, step, draws)
        if step["kind"] in ("brightness", "contrast", "gain", "noise"):
            assert changed.dtype == np.float32
            changed = np.clip(changed, *step["clip"]) if step["clip"] else changed
            if np.dtype(dtype).kind != "f":
                limits = np.iinfo(dtype)
                changed = np.clip(np.rint(changed), limits.min, limits.max)
        values = changed.astype(dtype)
    return values


class _Words:
    def __init__(self, seed, place):
        self.key = _mix(seed + place)

    def word(self, n):
        return _mix(self.key + n)

    def uniform(self, n):
        return (self.word(n) >> 40) / 2**24

    def below(self, n, limit):
        return (self.word(n) >> 32) * limit >> 32

    def around(self, n, amount):
        return np.float32(1 + (2 * self.uniform(n) - 1) * amount)

    def normal(self, n):
        return np.float32(NormalDist().inv_cdf(((self.word(n) >> 48) + 0.5) / 65536))

    def each(self, values, number):
        return np.array([number(16 + i) for i in range(values.size)]).reshape(values.shape)


def _mix(x):
    x = x * 0x9E3779B97F4A7C15 % 2**64
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    x = (x ^ x >> 27) * 0x94D049BB133111EB % 2**64
    return x ^ x >> 31


def _shift(values, by, fill, draws):
    for number, most in enumerate(by):
        axis = values.ndim - len(by) + number
        length = values.shape[axis]
        offset = draws.below(1 + number, 2 * most + 1) - most
        taken = []
        for place in range(length):
            source = place - offset
            if fill == "reflect":
                source = abs(source)
                source = source if source < length else 2 * (length - 1) - source
            if fill == "wrap":
                source %= length
            inside = 0 <= source < length
            part = values.take(source if inside else 0, axis)
            taken.append(part if inside else np.zeros_like(part))
        values = np.stack(taken, axis)
    return values


def _erase(values, step, draws):
    values, places = values.copy(), [...]
    for number, size in enumerate(step["size"]):
        length = values.shape[values.ndim - len(step["size"]) + number]
        start = draws.below(1 + number, length - size + 1)
        places.append(slice(start, start + size))
    values[tuple(places)] = step["value"]
    return values


def _contrast(values, step, draws):
    middle = step["middle"]
    if middle is None:
        middle = 127.5 if values.dtype == np.uint8 else 0
    middle = np.float32(middle)
    return (values.astype(np.float32) - middle) * draws.around(1, step["amount"]) + middle


def _gain(values, step, draws):
    decibels = (2 * draws.uniform(1) - 1) * step["decibels"]
    return values.astype(np.float32) * np.float32(10.0 ** (decibels / 20))


def _noise(values, step, draws):
    noise = draws.each(values, draws.normal) * np.float32(step["deviation"])
    return values.astype(np.float32) + noise


def _drop(values, step, draws, value):
    return np.where(draws.each(values, draws.uniform) < step["p"], value, values)


_VIEWS = {
    "flip": lambda v, step, draws: np.flip(v, -1 if step["axis"] == "horizontal" else -2),
    "shift": lambda v, step, draws: _shift(v, step["by"], step["fill"], draws),
    "crop": lambda v, step, draws: _shift(v, [step["padding"]] * 2, step["fill"], draws),
    "rotate": lambda v, step, draws: np.rot90(v, draws.below(1, 4), (-2, -1)),
    "erase": _erase,
    "brightness": lambda v, step, draws: v.astype(np.float32) * draws.around(1, step["amount"]),
    "contrast": _contrast,
    "gain": _gain,
    "noise": _noise,
    "drop": lambda v, step, draws: _drop(v, step, draws, step["value"]),
    "token_drop": lambda v, step, draws: _drop(v, step, draws, step["id"]),
}
