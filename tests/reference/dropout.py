"""Philox and the dropout mask in numpy, from their description in docs/dropout.md."""

from __future__ import annotations

import numpy as np

_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_LOW = np.uint64(0xFFFFFFFF)


def philox(counters: np.ndarray, key: int) -> np.ndarray:
    """Computes Philox4x32-10 (Salmon et al. 2011) of counters of shape (n, 4): four uint32 words for each."""
    words = [counters[:, k].astype(np.uint64) for k in range(4)]
    keys = [key & 0xFFFFFFFF, key >> 32]
    for _ in range(10):
        first, second = (words[2 * k] * np.uint64(_MULTIPLIERS[k]) for k in range(2))
        words = [
            (second >> np.uint64(32)) ^ words[1] ^ np.uint64(keys[0]),
            second & _LOW,
            (first >> np.uint64(32)) ^ words[3] ^ np.uint64(keys[1]),
            first & _LOW,
        ]
        keys = [(k + w) & 0xFFFFFFFF for k, w in zip(keys, _WEYL, strict=True)]
    return np.stack(words, 1).astype(np.uint32)


def draws(elements: np.ndarray, seed: int) -> np.ndarray:
    """Returns the 8 bits of each element i: byte i % 16 of block i / 16, words in order, low byte first."""
    elements = elements.astype(np.uint64)
    first = elements[0] // np.uint64(16) if elements.size else np.uint64(0)
    last = elements[-1] // np.uint64(16) if elements.size else np.uint64(0)
    blocks = np.arange(first, last + np.uint64(1), dtype=np.uint64)
    words = philox(_counters(blocks, 0), seed)
    return words.astype("<u4").view(np.uint8).reshape(-1)[elements - first * np.uint64(16)]


def kept(elements: np.ndarray, p: float, seed: int) -> np.ndarray:
    """Returns True where an element is kept; `elements` are logical indices, ascending."""
    elements = elements.astype(np.uint64)
    threshold = int(p * 2**40)  # exact but for what is below 2**-40, as p has at most 53 bits
    first, second = threshold >> 32, threshold & 0xFFFFFFFF
    drawn = draws(elements, seed).astype(np.int64)
    result = drawn >= first
    if second:
        ties = np.flatnonzero(drawn == first)
        more = philox(_counters(elements[ties], 1), seed)[:, 0]
        result[ties] = more >= second
    return result


def dropped(shape: tuple[int, ...], p: float, seed: int) -> np.ndarray:
    """Returns True where an element of a tensor is dropped."""
    return ~kept(np.arange(int(np.prod(shape))), p, seed).reshape(shape)


def _counters(numbers: np.ndarray, word3: int) -> np.ndarray:
    counters = np.zeros((numbers.size, 4), np.uint32)
    counters[:, 0], counters[:, 1] = numbers & _LOW, numbers >> np.uint64(32)
    counters[:, 3] = word3
    return counters
