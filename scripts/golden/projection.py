"""Writes tests/golden/projection.json: random words, normals and matrix checksums, made without our Rust code.

Needs numpy 2.4.6 (nothing else). Run from the repository's root: python scripts/golden/projection.py
The scheme is stated in shared/src/random.rs. ChaCha8 here is written from D. J. Bernstein's description and checked
against the eSTREAM vector. Rust's libm and C's may differ in a last bit of an f64; rounded to f32 the matrices agree.
"""

import hashlib
import json
import math
import struct

import numpy as np

PROJECTION = 1  # the domain's number
MASK = 0xFFFFFFFF


def quarter(s, a, b, c, d):
    for x, y, z, turn in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
        s[x] = (s[x] + s[y]) & MASK
        t = s[z] ^ s[x]
        s[z] = (t << turn | t >> (32 - turn)) & MASK


def block(key, nonce, counter):
    """The 16 words of one ChaCha8 block: 64-bit counter, 64-bit nonce."""
    start = list(struct.unpack("<16I", b"expand 32-byte k" + key + struct.pack("<QQ", counter, nonce)))
    s = start[:]
    for _ in range(4):
        for i in range(4):
            quarter(s, i, 4 + i, 8 + i, 12 + i)
        for i in range(4):
            quarter(s, i, 4 + (i + 1) % 4, 8 + (i + 2) % 4, 12 + (i + 3) % 4)
    return [(a + b) & MASK for a, b in zip(s, start)]


def words(seed, layer, first, count):
    key = struct.pack("<QQ", seed, PROJECTION) + bytes(16)
    out = []
    for counter in range(first // 16, (first + count + 15) // 16):
        out += block(key, layer, counter)
    return out[first % 16 :][:count]


def fractions(seed, layer, count):
    w = words(seed, layer, 0, 2 * count)
    return [((w[2 * i] | w[2 * i + 1] << 32) >> 11) * 2.0**-53 for i in range(count)]


def normals(seed, layer, count):
    u = fractions(seed, layer, count + count % 2)
    out = []
    for distance, turn in zip(u[::2], u[1::2]):
        radius = math.sqrt(-2.0 * math.log(distance + 2.0**-53))
        out += [radius * math.cos(math.tau * turn), radius * math.sin(math.tau * turn)]
    return out[:count]


def case(seed, layer, rows, dim, std, first_word):
    n = rows * dim
    if std is None:
        entries = (2.0 * np.array(fractions(seed, layer, n)) - 1.0) * (1.0 / math.sqrt(dim))
    else:
        entries = np.array(normals(seed, layer, n)) * float(np.float32(std))
    return {
        "seed": seed, "layer": layer, "rows": rows, "dim": dim, "std": std,
        "first_word": first_word, "words": words(seed, layer, first_word, 20),
        "normals": normals(seed, layer, 9),
        "sha256": hashlib.sha256(entries.astype("<f4").tobytes()).hexdigest(),
    }


# eSTREAM, ChaCha8, 256-bit zero key, zero nonce: the keystream starts 3e 00 ef 2f 89 5f 40 d6.
assert struct.pack("<2I", *block(bytes(32), 0, 0)[:2]).hex() == "3e00ef2f895f40d6"
golden = {
    "made_by": f"scripts/golden/projection.py, numpy {np.__version__}",
    "scheme": "chacha8-boxmuller-1",
    "cases": [
        case(42, 0, 40, 25, 0.5, 0),
        case(42, 23, 96, 50, 0.033541, 5),
        case(8, 11, 33, 17, 0.0125, 16 * 2**32 - 3),
        case(2**64 - 1, 2**32 - 1, 7, 3, 1.0, 2**40 + 9),
        case(42, 0, 40, 25, None, 1),
        case(13, 5, 20, 100, None, 63),
    ],
}
with open("tests/golden/projection.json", "w", encoding="utf-8") as file:
    json.dump(golden, file, indent=1)
    file.write("\n")
