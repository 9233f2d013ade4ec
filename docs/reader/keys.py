"""Keys and sealed values: docs/format-keys.md, level by level."""

import base64
import hashlib
import hmac
import shutil
import subprocess

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

import mlkem

CHUNK = 65536
MAX_PLAIN = 1 << 30  # of one sealed value; a reader must not believe a length blindly


class Damaged(Exception):
    """Bytes are not what was written."""


class Expired(Exception):
    """The key is gone, and with it what was sealed."""


class Ended(Expired):
    """All keys of the tenant are gone."""


def h(x):
    return hashlib.sha256(x).digest()


def mac(k, x):
    return hmac.new(k, x, hashlib.sha256).digest()


def u32(n):
    return n.to_bytes(4, "big")


def i32(n):
    return n.to_bytes(4, "big", signed=True)


def labelled(label, x):
    return label.encode() + b"\0" + x


def expand(prk, info, n):
    """HKDF-Expand of RFC 5869."""
    out, t, i = b"", b"", 1
    while len(out) < n:
        t = mac(prk, t + info + bytes([i]))
        out, i = out + t, i + 1
    return out[:n]


def kdf(s, label, x, n):
    return expand(s, labelled(label, x), n)


def gcm_open(key, nonce, sealed, ad):
    try:
        return AESGCM(key).decrypt(nonce, sealed, ad)
    except (InvalidTag, ValueError) as e:
        raise Damaged("a seal does not open") from e


def raw_public(key):
    return key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)


def verify(public, signature, message):
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError) as e:
        raise Damaged("a signature does not verify") from e


# --- Level 1: the root ---


class Root:
    """What the root file holds."""

    def __init__(self, path):
        with open(path, encoding="ascii") as f:
            text = f.read()
        kind = "HOLDFAST ROOT KEY"
        try:
            b = base64.b64decode("".join(text.split("-----BEGIN %s-----" % kind)[1].split("-----END %s-----" % kind)[0].split()), validate=True)
        except (IndexError, ValueError) as e:
            raise Damaged("%s is no root file" % path) from e
        if len(b) != 102 or b[0] != 1 or h(b[:93])[:9] != b[93:]:
            raise Damaged("%s is no root file of version 1, or damaged" % path)
        self.fixed = b[1:33]
        self.day = int.from_bytes(b[33:37], "big", signed=True)
        self.ratchet = b[37:69]
        self.check = kdf(self.fixed, "holdfast check v1", b"", 16)
        seed = kdf(self.fixed, "holdfast installation key v1", b"", 32)
        self.installation = raw_public(Ed25519PrivateKey.from_private_bytes(seed).public_key())

    def local_key(self, purpose):
        return kdf(self.fixed, "holdfast local key v1", purpose.encode(), 32)

    def of_day(self, day):
        """K(day)."""
        if day < self.day:
            raise Expired("the ratchet has passed day %d" % day)
        k = self.ratchet
        for _ in range(day - self.day):
            k = kdf(k, "holdfast ratchet v1", b"", 32)
        return k

    def tenant(self, log, tenant, wrapped):
        """The secrets T and S of a tenant."""
        if len(wrapped) != 93 or wrapped[0] != 1:
            raise Damaged("no wrapped tenant of version 1")
        k = kdf(self.fixed, "holdfast tenant wrap v1", log + tenant, 32)
        both = gcm_open(k, wrapped[1:13], wrapped[13:], labelled("holdfast tenant wrap v1", log + tenant))
        return both[:32], both[32:]


def check_certificate(installation, certificate):
    """Returns the node's public key and the set of classes it may sign, as bits."""
    if len(certificate) != 99 or certificate[0] != 1:
        raise Damaged("no certificate of version 1")
    verify(installation, certificate[35:], labelled("holdfast node certificate v1", certificate[:35]))
    return certificate[3:35], int.from_bytes(certificate[1:3], "big")


# --- Level 2: the day pair ---


class DayPair:
    """The key pair of a tenant and an expiry day."""

    def __init__(self, tenant_secret, of_day, log, tenant, day):
        prk = mac(tenant_secret, of_day)
        x = kdf(prk, "holdfast day pair v1", log + tenant + i32(day), 64)
        suite = b"HPKE-v1" + b"KEM" + (0x647A).to_bytes(2, "big")
        derive = x[:32] + suite + (13).to_bytes(2, "big") + b"DeriveKeyPair" + (32).to_bytes(2, "big")
        self.seed = hashlib.shake_256(derive).digest(32)
        both = hashlib.shake_256(self.seed).digest(96)
        self.mlkem = _mlkem(both[:64])
        self.x25519 = X25519PrivateKey.from_private_bytes(both[64:])
        self.x25519_public = raw_public(self.x25519.public_key())

    def decapsulate(self, encapsulated):
        """X-Wing: one secret of the two."""
        m = self.mlkem.decapsulate(encapsulated[:1088])
        ct = encapsulated[1088:]
        try:
            x = self.x25519.exchange(X25519PublicKey.from_public_bytes(ct))
        except ValueError as e:
            raise Damaged("no encapsulated key") from e
        return hashlib.sha3_256(m + x + ct + self.x25519_public + bytes.fromhex("5c2e2f2f5e5c")).digest()


def _mlkem(seed):
    """The library's where it has one, else ours."""
    try:
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
    except ImportError:
        return mlkem.PrivateKey(seed)
    try:
        return MLKEM768PrivateKey.from_seed_bytes(seed)
    except UnsupportedAlgorithm:
        return mlkem.PrivateKey(seed)


def hpke_open(pair, info, sealed):
    """RFC 9180, base mode, single shot, empty associated data."""
    if len(sealed) < 1120:
        raise Damaged("too short")
    suite = b"HPKE" + bytes.fromhex("647a00010002")

    def extract(salt, label, ikm):
        return mac(salt or bytes(32), b"HPKE-v1" + suite + label + ikm)

    def labelled_expand(prk, label, x, n):
        return expand(prk, n.to_bytes(2, "big") + b"HPKE-v1" + suite + label + x, n)

    shared = pair.decapsulate(sealed[:1120])
    context = b"\0" + extract(b"", b"psk_id_hash", b"") + extract(b"", b"info_hash", info)
    secret = extract(shared, b"secret", b"")
    key = labelled_expand(secret, b"key", context, 32)
    nonce = labelled_expand(secret, b"base_nonce", context, 12)
    return gcm_open(key, nonce, sealed[1120:], b"")


# --- Level 3: the key page ---


def rewritten_page(installation, binding, b):
    """Takes a page that was rewritten out of its envelope."""
    if b[:4] != b"HFR1" or len(b) < 111 + 64:
        raise Damaged("not the page that was stored, and none that was rewritten")
    public, classes = check_certificate(installation, b[4:103])
    sealed = b[111:-64]
    if not classes >> 7 & 1 or not any(b[103:111]):
        raise Damaged("a page rewritten by a node that may not")
    verify(public, b[-64:], labelled("holdfast rewritten key page v1", binding + b[103:111] + h(sealed)))
    return sealed


def ended_tenant(installation, log, tenant, b):
    """Checks the word that a tenant has ended."""
    if b[:4] != b"HFE1" or len(b) != 196:
        raise Damaged("no secrets, and no word that the tenant has ended")
    public, classes = check_certificate(installation, b[4:103])
    if not classes >> 7 & 1:
        raise Damaged("a tenant ended by a node that may not")
    verify(public, b[-64:], labelled("holdfast ended tenant v1", log + tenant + b[103:132]))


class Page:
    """An open key page."""

    def __init__(self, pair, log, tenant, day, page, writer, sealed):
        if sealed[:4] != b"HFK1":
            raise Damaged("no key page of version 1")
        info = labelled("holdfast key page v1", log + tenant + i32(day) + page + writer)
        plain = hpke_open(pair, info, sealed[4:])
        count = int.from_bytes(plain[:4], "big")
        if len(plain) != 4 + 37 * count:
            raise Damaged("a key page of the wrong length")
        self.nodes, end = [], 0
        for i in range(count):
            b = plain[4 + 37 * i:4 + 37 * (i + 1)]
            depth, index = b[0], int.from_bytes(b[1:5], "big")
            if depth > 20 or index >= 1 << depth or index << 20 - depth < end:
                raise Damaged("a key page whose nodes are not in order")
            end = index + 1 << 20 - depth
            self.nodes.append((depth, index, b[5:]))

    def leaf(self, number):
        for depth, index, node in self.nodes:
            if number >> 20 - depth != index:
                continue
            for bit in range(19 - depth, -1, -1):
                node = h(b"holdfast ggm v1" + bytes([number >> bit & 1]) + node)
            return node
        raise Expired("the leaf was erased")


# --- Level 4: sealed values ---


def _nonce(kind, counter):
    return bytes([kind]) + bytes(7) + u32(counter)


def _key(leaf, binding, commitment):
    x = kdf(leaf, "holdfast message v1", binding, 64)
    if x[32:] != commitment:
        raise Damaged("the commitment is another")
    return x[:32]


def open_small(leaf, binding, commitment, sealed):
    packed = gcm_open(_key(leaf, binding, commitment), _nonce(1, 0), sealed, labelled("holdfast small v1", binding))
    if packed[:1] == b"\1":
        return packed[1:]
    if packed[:1] == b"\2" and len(packed) >= 5:
        return unzstd([packed[5:]], [int.from_bytes(packed[1:5], "big")])[0]
    raise Damaged("a small value of no known packing")


def open_stream(leaf, binding, commitment, sealed):
    """Returns the whole plaintext."""
    key, ad = _key(leaf, binding, commitment), labelled("holdfast stream v1", binding)
    if len(sealed) < 4:
        raise Damaged("a stream without an end")
    length = int.from_bytes(sealed[-4:], "big")
    chunks = len(sealed) - 4 - length
    n = (length - 16 - 12) // 4
    if chunks < 0 or n < 1:
        raise Damaged("a stream without a table")
    table = gcm_open(key, _nonce(4, n), sealed[chunks:-4], ad)
    size, count = int.from_bytes(table[:8], "big"), int.from_bytes(table[8:12], "big")
    lengths = [int.from_bytes(table[i:i + 4], "big") for i in range(12, len(table), 4)]
    if count != n or len(lengths) != n or sum(lengths) != chunks or n != max(1, -(-size // CHUNK)) or size > MAX_PLAIN:
        raise Damaged("a stream whose table does not add up")
    packed, at = [], 0
    for i, k in enumerate(lengths):
        packed.append(gcm_open(key, _nonce(2 if i < n - 1 else 3, i), sealed[at:at + k], ad))
        at += k
    sizes = [min(CHUNK, size - CHUNK * i) for i in range(n)]
    frames = [i for i in range(n) if packed[i][:1] == b"\2"]
    opened = dict(zip(frames, unzstd([packed[i][1:] for i in frames], [sizes[i] for i in frames])))
    for i in range(n):
        if i not in opened:
            if packed[i][:1] != b"\1":
                raise Damaged("a chunk of no known packing")
            opened[i] = packed[i][1:]
        if len(opened[i]) != sizes[i]:
            raise Damaged("a chunk of the wrong length")
    return b"".join(opened[i] for i in range(n))


def open_state(state_secret, binding, commitment, sealed):
    x = kdf(state_secret, "holdfast state v1", binding, 96)
    if x[32:64] != commitment:
        raise Damaged("the commitment is another")
    return gcm_open(x[:32], sealed[:12], sealed[12:], labelled("holdfast state v1", binding))


def unzstd(frames, sizes):
    """Opens zstd frames, whose contents have these sizes: with the standard library
    of Python 3.14, the package zstandard, or the program zstd."""
    if not frames:
        return []
    try:
        try:
            from compression import zstd
            out = [zstd.decompress(f) for f in frames]
        except ImportError:
            import zstandard
            out = [zstandard.ZstdDecompressor().decompress(f, max_output_size=s) for f, s in zip(frames, sizes)]
    except ImportError:
        out = _unzstd_program(frames, sizes)
    except Exception as e:
        raise Damaged("a zstd frame does not open") from e
    if [len(o) for o in out] != sizes:
        raise Damaged("a zstd frame of another length")
    return out


def _unzstd_program(frames, sizes):
    if not shutil.which("zstd"):
        raise SystemExit("this needs the package zstandard or the program zstd (Debian: apt-get install zstd)")
    done = subprocess.run(["zstd", "-dcq", "--single-thread"], input=b"".join(frames), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False)
    if done.returncode != 0 or len(done.stdout) != sum(sizes):
        raise Damaged("a zstd frame does not open")
    out, at = [], 0
    for s in sizes:
        out.append(done.stdout[at:at + s])
        at += s
    return out
