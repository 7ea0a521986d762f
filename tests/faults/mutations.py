"""Random damage to a file: what a bad disk, a broken download or a hostile sender does."""

import random


def mutated(content: bytes, rng: random.Random) -> bytes:
    """One to four random changes to a file."""
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        rng.choice(_CHANGES)(changed, rng)
    return bytes(changed)


def flip_bit(content: bytearray, rng: random.Random) -> None:
    position = rng.randrange(8 * len(content)) if content else 0
    if content:
        content[position // 8] ^= 1 << position % 8


def _random_byte(content, rng):
    if content:
        content[rng.randrange(len(content))] = rng.randrange(256)


def _cut_off(content, rng):
    del content[rng.randrange(len(content) + 1) :]


def _cut_out(content, rng):
    start = rng.randrange(len(content) + 1)
    del content[start : start + rng.randrange(1, 64)]


def _insert(content, rng):
    place = rng.randrange(len(content) + 1)
    content[place:place] = rng.randbytes(rng.randrange(1, 64))


def _zeros(content, rng):
    start = rng.randrange(len(content) + 1)
    length = min(rng.randrange(1, 4096), len(content) - start)
    content[start : start + length] = bytes(length)


def _large_number(content, rng):
    """In the place of a size or an offset."""
    if len(content) > 8:
        start = rng.randrange(len(content) - 8)
        content[start : start + 4] = rng.choice((b"\xff\xff\xff\x7f", b"\xff" * 4, bytes(4)))


def _repeat(content, rng):
    start = rng.randrange(len(content) + 1)
    part = content[start : start + rng.randrange(1, 256)]
    content[start:start] = part * rng.randrange(1, 8)


_CHANGES = (
    *(flip_bit, _random_byte, _cut_off, _cut_out),
    *(_insert, _zeros, _large_number, _repeat),
)
