"""CBOR as docs/format.md has it: RFC 8949 with core deterministic encoding, without
tags, floating point numbers and indefinite lengths. Text becomes str, whose bytes
that are no UTF-8 are kept as surrogates."""


class Malformed(Exception):
    """The bytes are not such CBOR."""


def decode(b):
    """Returns the one value that b is."""
    value, end = _value(b, 0, 0)
    if end != len(b):
        raise Malformed("bytes after the value")
    return value


def _value(b, i, depth):
    if depth > 80:
        raise Malformed("nested too deep")
    if i >= len(b):
        raise Malformed("cut short")
    major, n = b[i] >> 5, b[i] & 31
    if major == 7:
        if n not in (20, 21, 22):
            raise Malformed("simple value %d" % n)
        return {20: False, 21: True, 22: None}[n], i + 1
    n, i = _argument(b, i + 1, n)
    if major == 0:
        return n, i
    if major == 1:
        return -1 - n, i
    if major in (2, 3):
        if i + n > len(b):
            raise Malformed("cut short")
        raw = b[i:i + n]
        return (raw if major == 2 else raw.decode("utf-8", "surrogateescape")), i + n
    if major == 4:
        items = []
        for _ in range(n):
            item, i = _value(b, i, depth + 1)
            items.append(item)
        return items, i
    if major == 5:
        return _map(b, i, n, depth)
    raise Malformed("a tag")


def _argument(b, i, n):
    if n < 24:
        return n, i
    if n > 27:
        raise Malformed("an indefinite length")
    size = 1 << n - 24
    if i + size > len(b):
        raise Malformed("cut short")
    v = int.from_bytes(b[i:i + size], "big")
    if v < (24 if size == 1 else 1 << 4 * size):
        raise Malformed("a number that is longer than it must be")
    return v, i + size


def _map(b, i, n, depth):
    items, last = {}, b""
    for _ in range(n):
        start = i
        key, i = _value(b, i, depth + 1)
        if isinstance(key, (dict, list)) or last and b[start:i] <= last:
            raise Malformed("keys of a map out of order")
        last = b[start:i]
        items[key], i = _value(b, i, depth + 1)
    return items, i
