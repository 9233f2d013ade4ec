"""Walks through a mailbox with Python's imaplib: host port user password count.

INBOX holds `count` messages, each with an X-Number field, and nobody else
changes it meanwhile except to set flags.
"""
import imaplib
import re
import sys

host, port, user, password, count = sys.argv[1:]
count = int(count)


def ok(answer, what):
    status, data = answer
    if status != "OK":
        sys.exit(f"{what}: {status} {data!r}")
    return data


def check(condition, what):
    if not condition:
        sys.exit(what)


m = imaplib.IMAP4(host, int(port))
ok(m.login(user, password), "LOGIN")
other = imaplib.IMAP4(host, int(port))
ok(other.login(user, password), "LOGIN of a second connection")

folders = b" ".join(ok(m.list(), "LIST"))
for name in (b"INBOX", b"Sent", b"Drafts", b"Trash", b"Junk", b"Archive"):
    check(name in folders, f"LIST does not name {name!r}: {folders!r}")

check(int(ok(m.select("INBOX"), "SELECT")[0]) == count, "SELECT counts wrong")
uids = ok(m.uid("SEARCH", None, "ALL"), "SEARCH ALL")[0].split()
check(len(uids) == count, f"SEARCH ALL finds {len(uids)}")
one = ok(m.uid("SEARCH", None, "SUBJECT", '"client 3"'), "SEARCH SUBJECT")[0].split()
check(len(one) == 1, f"SEARCH SUBJECT finds {one}")
check(ok(m.uid("SEARCH", None, "BODY", '"client number 3."'), "SEARCH BODY")[0].split() == one, "SEARCH BODY finds another")
check(ok(m.uid("SEARCH", None, "HEADER", "X-Number", "3"), "SEARCH HEADER")[0].split() == one, "SEARCH HEADER finds another")

data = ok(m.uid("FETCH", one[0], "(FLAGS RFC822.SIZE ENVELOPE BODYSTRUCTURE BODY.PEEK[])"), "FETCH")
body = next(part[1] for part in data if isinstance(part, tuple))
check(b"X-Number: 3\r\n" in body and body.endswith(b"This is client number 3.\r\n"), f"FETCH gives {body!r}")
text = b" ".join(part[0] if isinstance(part, tuple) else part for part in data)
check(f"RFC822.SIZE {len(body)}".encode() in text, f"RFC822.SIZE is not {len(body)}: {text!r}")
check(b'"client 3"' in text and b'"remote.example"' in text, f"ENVELOPE is {text!r}")
part = ok(m.uid("FETCH", one[0], "(BODY.PEEK[HEADER.FIELDS (SUBJECT)] BODY.PEEK[TEXT]<0.4>)"), "FETCH of parts")
pieces = [p[1] for p in part if isinstance(p, tuple)]
check(pieces == [b"Subject: client 3\r\n\r\n", b"This"], f"parts are {pieces!r}")

check(int(ok(other.select("INBOX"), "SELECT by the second connection")[0]) == count, "the second connection counts wrong")
ok(m.uid("STORE", one[0], "+FLAGS", r"(\Seen \Flagged Later)"), "STORE")
ok(other.noop(), "NOOP")
seen = b" ".join(x for x in ok(other.uid("FETCH", one[0], "(FLAGS)"), "FETCH FLAGS") if x)
check(rb"\Flagged" in seen and b"Later" in seen, f"the second connection sees {seen!r}")

ok(m.create("Walk"), "CREATE")
ok(m.append("Walk", r"(\Seen)", None, b"Subject: appended\r\n\r\nby imaplib\r\n"), "APPEND")
ok(m.uid("COPY", one[0], "Walk"), "COPY")
ok(m.select("Walk"), "SELECT Walk")
check(len(ok(m.uid("SEARCH", None, "ALL"), "SEARCH in Walk")[0].split()) == 2, "Walk does not hold two messages")
ok(m.uid("STORE", "1:*", "+FLAGS", r"(\Deleted)"), "STORE Deleted")
ok(m.expunge(), "EXPUNGE")
check(ok(m.uid("SEARCH", None, "ALL"), "SEARCH after EXPUNGE")[0] == b"", "EXPUNGE left something")
ok(m.select("INBOX"), "SELECT INBOX again")
ok(m.delete("Walk"), "DELETE")
check(b"Walk" not in b" ".join(x for x in ok(m.list(), "LIST after DELETE") if x), "Walk is still listed")

ok(m.uid("STORE", one[0], "-FLAGS", r"(\Seen \Flagged Later)"), "STORE back")
check(re.search(rb"\(MESSAGES %d\b" % count, ok(m.status("INBOX", "(MESSAGES UIDNEXT UIDVALIDITY)"), "STATUS")[0]), "STATUS counts wrong")
ok(m.select("INBOX", readonly=True), "EXAMINE")
m.uid("STORE", one[0], "+FLAGS", r"(\Deleted)")  # Refused or ignored, as the server likes.
kept = b" ".join(x for x in ok(other.uid("FETCH", one[0], "(FLAGS)"), "FETCH FLAGS") if x)
check(rb"\Deleted" not in kept, f"STORE after EXAMINE left {kept!r}")
m.logout()
other.logout()
print("imaplib: everything as it should be")
