"""Reference of states in 8 bits: the formula of docs/precision.md on one block after the other, in numpy."""

from __future__ import annotations

import numpy as np

BLOCK = 32
SPECIAL = 0x7F800000


def dithers(number, block, step, state):
    """The 16-bit dithers of a block's 32 elements."""
    mask = 0xFFFFFFFF
    word = ((block & mask) * 0x9E3779B1 & mask) ^ (number * 0x85EBCA77 & mask) ^ (state * 0xC2B2AE3D & mask)
    word = (word ^ word >> 15) * 0x2C1B3C6D & mask
    word = (word ^ word >> 12) * 0x297A2D39 & mask
    word ^= word >> 15
    begin = word + step * (0xA953FD4E if state == 0 else 0x9E3779B9)
    return [((begin + lane * 0x6A09E667) & mask) >> 16 for lane in range(BLOCK)]


def encode_block(values, signed, dither):
    """The codes of up to 32 float32 numbers, and the scale's bits."""
    bits = [int(b) for b in np.asarray(values, np.float32).view(np.uint32)]
    finite = [b & 0x7FFFFFFF for b in bits if b & 0x7FFFFFFF < SPECIAL]
    flagged, top = len(finite) < len(bits), max(finite, default=0)
    codes = [_code(b, top, signed, flagged, d) for b, d in zip(bits, dither, strict=False)]
    return codes, top | (0x80000000 if flagged else 0)


def _code(bits, top, signed, flagged, dither):
    magnitude, sign = bits & 0x7FFFFFFF, bits >> 31
    if magnitude >= SPECIAL:
        return 0x80 if signed else 0xFF
    if magnitude == 0:
        return 0
    below = top - magnitude
    part = below // 4 if signed else int(np.float32(below) * np.float32(2 / 11))
    levels = 7 if signed else 8
    y = np.uint32(0x3F800000 + ((levels + 16) << 23) - part).view(np.float32)
    level = (int(y) + dither) >> 16
    if signed:
        return 0 if level < 2 else (level - 1) | sign << 7
    return min(max(level - 1, 1), 254 if flagged else 255)


def decode_block(codes, scale_bits, signed):
    """The float32 numbers of a block."""
    top, flagged = scale_bits & 0x7FFFFFFF, scale_bits >> 31
    return np.array([_value(int(code), top, signed, flagged) for code in codes], np.uint32).view(np.float32)


def _value(code, top, signed, flagged):
    if flagged and code == (0x80 if signed else 0xFF):
        return 0x7FC00000 if signed else SPECIAL
    level, sign = (code & 0x7F, code >> 7) if signed else (code, 0)
    if level == 0:
        return sign << 31
    part = 0x3F800000 + ((7 if signed else 8) << 23) - int(np.float32(level + 1).view(np.uint32))
    below = part * 4 if signed else part * 11 // 2
    return max(top - below, 1) | sign << 31
