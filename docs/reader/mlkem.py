"""ML-KEM-768 of FIPS 203, only what opens: key generation from a seed, and
decapsulation. Slow (some 20 ms), and not in constant time: it is for a reader at
home with its keys, where no newer `cryptography` is installed."""

import hashlib

Q, N, K = 3329, 256, 3
DU, DV = 10, 4


def _bitrev7(i):
    return int(format(i, "07b")[::-1], 2)


ZETAS = [pow(17, _bitrev7(i), Q) for i in range(128)]
GAMMAS = [pow(17, 2 * _bitrev7(i) + 1, Q) for i in range(128)]


def _g(b):
    h = hashlib.sha3_512(b).digest()
    return h[:32], h[32:]


def _ntt(f):
    """Algorithm 9."""
    f, i, length = list(f), 1, 128
    while length >= 2:
        for start in range(0, N, 2 * length):
            zeta, i = ZETAS[i], i + 1
            for j in range(start, start + length):
                t = zeta * f[j + length] % Q
                f[j + length], f[j] = (f[j] - t) % Q, (f[j] + t) % Q
        length //= 2
    return f


def _inverse_ntt(f):
    """Algorithm 10."""
    f, i, length = list(f), 127, 2
    while length <= 128:
        for start in range(0, N, 2 * length):
            zeta, i = ZETAS[i], i - 1
            for j in range(start, start + length):
                t = f[j]
                f[j] = (t + f[j + length]) % Q
                f[j + length] = zeta * (f[j + length] - t) % Q
        length *= 2
    return [x * 3303 % Q for x in f]


def _multiply(f, g):
    """Algorithm 11."""
    h = []
    for i in range(128):
        a0, a1, b0, b1 = f[2 * i], f[2 * i + 1], g[2 * i], g[2 * i + 1]
        h += [(a0 * b0 + a1 * b1 * GAMMAS[i]) % Q, (a0 * b1 + a1 * b0) % Q]
    return h


def _add(f, g):
    return [(x + y) % Q for x, y in zip(f, g)]


def _dot(fs, gs):
    total = [0] * N
    for f, g in zip(fs, gs):
        total = _add(total, _multiply(f, g))
    return total


def _encode(f, d):
    """Algorithm 5."""
    n = 0
    for i, x in enumerate(f):
        n |= x << (d * i)
    return n.to_bytes(32 * d, "little")


def _decode(b, d):
    """Algorithm 6, for d below 12."""
    n, mask = int.from_bytes(b, "little"), (1 << d) - 1
    return [n >> (d * i) & mask for i in range(N)]


def _compress(f, d):
    return [((x << d) + Q // 2) // Q % (1 << d) for x in f]


def _decompress(f, d):
    return [(x * Q + (1 << d - 1)) >> d for x in f]


def _sample_uniform(seed):
    """Algorithm 7."""
    stream, a, i = hashlib.shake_128(seed).digest(3 * 1024), [], 0
    while len(a) < N:
        b0, b1, b2 = stream[i:i + 3]
        i += 3
        for x in (b0 + 256 * (b1 % 16), b1 // 16 + 16 * b2):
            if x < Q and len(a) < N:
                a.append(x)
    return a


def _sample_binomial(sigma, nonce):
    """Algorithm 8 with eta 2, over PRF."""
    bits = int.from_bytes(hashlib.shake_256(sigma + bytes([nonce])).digest(128), "little")
    bit = lambda i: bits >> i & 1
    return [(bit(4 * i) + bit(4 * i + 1) - bit(4 * i + 2) - bit(4 * i + 3)) % Q for i in range(N)]


class PrivateKey:
    """An ML-KEM-768 key pair made of the seed d, then z (64 bytes)."""

    def __init__(self, seed):
        d, self.z = seed[:32], seed[32:]
        rho, sigma = _g(d + bytes([K]))  # Algorithm 13
        self.a = [[_sample_uniform(rho + bytes([j, i])) for j in range(K)] for i in range(K)]
        self.s = [_ntt(_sample_binomial(sigma, i)) for i in range(K)]
        e = [_ntt(_sample_binomial(sigma, K + i)) for i in range(K)]
        self.t = [_add(_dot(self.a[i], self.s), e[i]) for i in range(K)]
        self.public = b"".join(_encode(f, 12) for f in self.t) + rho

    def decapsulate(self, c):
        """Algorithm 18: the shared secret, or a random one if c was not made for this key."""
        u = [_decompress(_decode(c[320 * i:320 * (i + 1)], DU), DU) for i in range(K)]
        v = _decompress(_decode(c[320 * K:], DV), DV)
        w = _dot(self.s, [_ntt(f) for f in u])
        m = _encode(_compress([(x - y) % Q for x, y in zip(v, _inverse_ntt(w))], 1), 1)
        secret, r = _g(m + hashlib.sha3_256(self.public).digest())
        if self._encrypt(m, r) != c:
            return hashlib.shake_256(self.z + c).digest(32)
        return secret

    def _encrypt(self, m, r):
        """Algorithm 14."""
        y = [_ntt(_sample_binomial(r, i)) for i in range(K)]
        out = b""
        for i in range(K):
            u = _inverse_ntt(_dot([self.a[j][i] for j in range(K)], y))
            out += _encode(_compress(_add(u, _sample_binomial(r, K + i)), DU), DU)
        v = _add(_inverse_ntt(_dot(self.t, y)), _sample_binomial(r, 2 * K))
        v = _add(v, _decompress(_decode(m, 1), 1))
        return out + _encode(_compress(v, DV), DV)
