"""Uses a mailbox as scripts with Python's imaplib do. Arguments: host, port, and
a directory of the messages in INBOX, named by UID."""

import imaplib
import os
import re
import sys
import threading
import time

host, port, directory = sys.argv[1], int(sys.argv[2]), sys.argv[3]


def connect():
    c = imaplib.IMAP4(host, port, timeout=30)
    c.login("alice", "secret")
    return c


def ok(result):
    status, data = result
    assert status == "OK", result
    return data


c = connect()
assert "IMAP4REV1" in [x.upper() for x in c.capabilities], c.capabilities
boxes = ok(c.list())
assert any(b'\\Trash' in b and b'"Trash"' in b for b in boxes), boxes
n = int(ok(c.select("INBOX"))[0])
files = sorted(os.listdir(directory), key=int)
assert n == len(files), (n, len(files))

# Read everything, in three ways.
for item, whole in (("(BODY.PEEK[])", 1), ("(RFC822)", 1), ("(BODY.PEEK[HEADER] BODY.PEEK[TEXT])", 2)):
    data = ok(c.uid("FETCH", "1:*", item))
    parts = [d[1] for d in data if isinstance(d, tuple)]
    assert len(parts) == n * whole, (item, len(parts))
    for i, name in enumerate(files):
        with open(os.path.join(directory, name), "rb") as f:
            want = f.read()
        got = b"".join(parts[i * whole:(i + 1) * whole])
        assert got == want, "message %s differs with %s" % (name, item)
for item in ("ENVELOPE", "BODYSTRUCTURE", "(FLAGS INTERNALDATE RFC822.SIZE UID)", "FULL", "ALL", "FAST"):
    for lo in range(1, n, 10):
        data = ok(c.fetch("%d:%d" % (lo, min(n, lo + 9)), item))
        assert data and data[0] is not None
flags = ok(c.uid("FETCH", "1:*", "(FLAGS)"))
assert all(b"\\Seen" in f for f in flags), "RFC822 sets \\Seen"

# Flag, copy, move, delete.
ok(c.store("1", "+FLAGS", "(\\Flagged Work)"))
ok(c.uid("COPY", "2", "Archive"))
ok(c.uid("MOVE", "3", "Archive"))
assert len(ok(c.search(None, "ALL"))[0].split()) == n - 1
ok(c.uid("STORE", "4", "+FLAGS.SILENT", "(\\Deleted)"))
c.response("EXPUNGE")  # forget the one of MOVE
assert ok(c.expunge()) == [b"3"], "message 4 had number 3"
assert ok(c.uid("SEARCH", None, "KEYWORD", "work")) == [b"1"]
typ, _ = c.copy("1", "Nowhere")
assert typ == "NO"
st = ok(c.status("Archive", "(MESSAGES UNSEEN UIDNEXT)"))
assert st[0].endswith(b"(MESSAGES 2 UIDNEXT 3 UNSEEN 0)"), st

# Search.
ok(c.append("Drafts", "(\\Draft)", imaplib.Time2Internaldate(1767225600), "Subject: Grüße\r\nContent-Type: text/plain; charset=utf-8\r\n\r\nÜber alles\r\n".encode()))
ok(c.select("Drafts"))
c.literal = "grüße".encode()
assert ok(c.search("UTF-8", "SUBJECT"))[0] == b"1"
c.literal = "ÜBER".encode()
assert ok(c.search("UTF-8", "BODY"))[0] == b"1"
assert ok(c.search(None, "SINCE", "1-Jan-2026", "BEFORE", "2-Jan-2026"))[0] == b"1"
assert ok(c.search(None, "NOT", "DRAFT"))[0] == b""

# Folders.
ok(c.create("Projekte/2026"))
ok(c.rename("Projekte", "Vorhaben"))
assert any(b'"Vorhaben/2026"' in b for b in ok(c.list('""', "Vorhaben*")))
ok(c.subscribe("Vorhaben"))
assert any(b"Vorhaben" in b for b in ok(c.lsub()))
ok(c.unsubscribe("Vorhaben"))
ok(c.delete("Vorhaben/2026"))
ok(c.delete("Vorhaben"))

# What one does another hears in IDLE at once.
idler = connect()
ok(idler.select("Drafts"))
idler.send(b"i1 IDLE\r\n")
assert idler.readline().startswith(b"+")
for expected, act in (
    (rb"\* 2 EXISTS", lambda: c.append("Drafts", None, None, b"Subject: two\r\n\r\n\r\n")),
    (rb"\* 1 FETCH \(.*FLAGS \(.*\\Answered.*\)\)", lambda: c.store("1", "+FLAGS", "\\Answered")),
    (rb"\* 1 FETCH \(.*\\Deleted.*\)\)", lambda: c.store("1", "+FLAGS", "\\Deleted")),
    (rb"\* 1 EXPUNGE", c.expunge),
):
    t = threading.Thread(target=act)
    began = time.monotonic()
    t.start()
    line = idler.readline()
    took = time.monotonic() - began
    t.join()
    assert re.match(expected, line), (expected, line)
    assert took < 5, (expected, took)
idler.send(b"DONE\r\n")
assert idler.readline().startswith(b"i1 OK")

# APPEND with Nagle's algorithm on.
began = time.monotonic()
for _ in range(200):
    ok(c.append("Trash", None, None, b"Subject: many\r\n\r\nmany\r\n"))
rate = 200 / (time.monotonic() - began)
assert rate > 60, "only %.0f APPENDs a second: 25 means delayed acknowledgements" % rate

ok(c.close())
assert c.logout()[0] == "BYE"
idler.logout()
print("imaplib is content; %d messages read, %.0f APPENDs a second" % (n, rate))
