#!/usr/bin/env python3
"""What the demo asks of Matrix itself: accounts, and the tree as the homeserver reports it. Standard library only.

It knows nothing of usher: what it prints comes from the homeserver, so that the demo does not judge usher by usher's own word.
"""

import argparse
import base64
import hashlib
import hmac
import json
import pathlib
import socket
import sys
import time
import urllib.error
import urllib.parse
import urllib.request

ATTEMPTS = 3


class Refused(Exception):
    """The homeserver said no."""


def call(url, method="GET", body=None, token=None):
    """One request; retried when the homeserver asks for patience or is just starting."""
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    for attempt in range(1, ATTEMPTS + 1):
        request = urllib.request.Request(url, data=data, method=method, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            text = error.read().decode(errors="replace")
            if error.code == 429 and attempt < ATTEMPTS:
                time.sleep(json.loads(text).get("retry_after_ms", 1000) / 1000)
                continue
            raise Refused(f"{method} {url.split('?')[0]}: {error.code} {text[:300]}") from None
    raise Refused(f"{method} {url}: no answer after {ATTEMPTS} attempts")


def quoted(text):
    return urllib.parse.quote(text, safe="")


def free_port(wanted):
    """The wanted port of the loopback interface, or any free one."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return probe.getsockname()[1]
    raise Refused("no free port")


def localpart(uid):
    """A directory uid as a Matrix name, by Synapse's rule: lower-case ASCII, everything else as =xx."""
    allowed = b"abcdefghijklmnopqrstuvwxyz0123456789._-/+"
    name = "".join(chr(b) if b in allowed else f"={b:02x}" for b in uid.encode().lower())
    return "=5f" + name[1:] if name.startswith("_") else name


def people(ldif):
    """(uid, cn) of every entry that has a uid, out of ldapsearch's LDIF (unwrapped)."""
    for block in ldif.split("\n\n"):
        entry = {}
        for line in block.splitlines():
            if line.startswith("#") or ":" not in line:
                continue
            key, value = line.split(":", 1)
            if value.startswith(":"):
                value = base64.b64decode(value[1:].strip()).decode()
            entry.setdefault(key.lower(), value.strip())
        if "uid" in entry:
            yield entry["uid"], entry.get("cn", entry["uid"])


def make_admin(hs, secret, name, password):
    """Registers a server admin with the shared secret; the access token."""
    url = f"{hs}/_synapse/admin/v1/register"
    nonce = call(url)["nonce"]
    mac = hmac.new(secret.encode(), "\0".join([nonce, name, password, "admin"]).encode(), hashlib.sha1).hexdigest()
    body = {"nonce": nonce, "username": name, "password": password, "admin": True, "mac": mac}
    return call(url, "POST", body)["access_token"]


def make_accounts(hs, token, server, ldif, password, without):
    """One account for everybody in the directory but `without`; how many."""
    made = 0
    for uid, name in people(ldif):
        if uid in without:
            continue
        user = f"@{localpart(uid)}:{server}"
        call(f"{hs}/_synapse/admin/v2/users/{quoted(user)}", "PUT", {"password": password, "displayname": name}, token)
        made += 1
    return made


class Room:
    """One room's state, read by the admin API."""

    def __init__(self, hs, token, room_id):
        self.id = room_id
        self.members, self.children, self.levels, self.name, self.creator = {}, {}, {}, None, None
        self.is_space = False
        for event in call(f"{hs}/_synapse/admin/v1/rooms/{quoted(room_id)}/state", token=token)["state"]:
            self.take(event["type"], event["state_key"], event["content"], event["sender"])

    def take(self, kind, key, content, sender):
        if kind == "m.room.create":
            self.is_space = content.get("type") == "m.space"
            self.creator = sender
        elif kind == "m.room.name":
            self.name = content.get("name")
        elif kind == "m.room.member":
            self.members[key] = content.get("membership")
        elif kind == "m.space.child" and content.get("via"):
            self.children[key] = content.get("order", "~")
        elif kind == "m.room.power_levels":
            self.levels = content.get("users", {})

    def line(self, depth):
        count = list(self.members.values()).count
        mark = "" if self.is_space else "# "
        title = "  " * depth + mark + (self.name or self.id)
        text = f"{title:<28} {'space' if self.is_space else 'room':<6}{count('join'):>3} joined"
        if count("invite"):
            text += f", {count('invite')} invited"
        raised = sorted(
            ((level, user) for user, level in self.levels.items() if level > 0 and user != self.creator),
            key=lambda pair: (-pair[0], pair[1]),
        )
        if not raised:
            return text
        names = [f"{user[1:].split(':')[0]} {level}" for level, user in raised]
        shown = ", ".join(names[:2]) + (f" and {len(names) - 2} more" if len(names) > 2 else "")
        return f"{text}   {shown}"


def all_rooms(hs, token):
    listed = call(f"{hs}/_synapse/admin/v1/rooms?limit=1000", token=token)["rooms"]
    return {room["room_id"]: Room(hs, token, room["room_id"]) for room in listed}


def below(rooms, parent):
    """Children of a space that exist here: rooms before spaces, then by the order Matrix gives, then by name."""
    inside = [child for child in parent.children if child in rooms]
    return sorted(inside, key=lambda child: (rooms[child].is_space, parent.children[child], rooms[child].name or ""))


def tree(rooms):
    """The spaces and rooms as lines, each space with what hangs in it; rooms outside every space last."""
    hung = {child for room in rooms.values() for child in room.children}
    lines = []

    def walk(room_id, depth, above):
        lines.append(rooms[room_id].line(depth))
        for child in below(rooms, rooms[room_id]):
            if child not in above:
                walk(child, depth + 1, above | {child})

    tops = sorted((r for r in rooms if r not in hung), key=lambda r: (not rooms[r].is_space, rooms[r].name or ""))
    for top in tops:
        walk(top, 0, {top})
    return lines


def whereabouts(rooms, user):
    """Where somebody is, and as what."""
    lines = []
    for room in rooms.values():
        membership = room.members.get(user)
        if membership in ("join", "invite", "knock"):
            mark = "" if room.is_space else "# "
            level = room.levels.get(user, 0)
            lines.append(f"{mark}{room.name or room.id}: {membership}" + (f", level {level}" if level else ""))
    return sorted(lines, key=lambda line: (line.startswith("#"), line)) or ["nowhere"]


def wait_for(hs, seconds):
    """Until the homeserver answers."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            call(f"{hs}/_matrix/client/versions")
            return
        except (OSError, Refused):
            time.sleep(0.2)
    raise Refused(f"{hs} has not answered for {seconds} seconds")


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("port", help="print a free loopback port").add_argument("wanted", type=int)
    wait = verbs.add_parser("wait", help="wait until the homeserver answers")
    admin = verbs.add_parser("admin", help="make a server admin, print the access token")
    accounts = verbs.add_parser("accounts", help="make accounts for the people of an LDIF on standard input")
    shown = verbs.add_parser("tree", help="print spaces and rooms")
    where = verbs.add_parser("where", help="print where somebody is")
    for verb in (wait, admin, accounts, shown, where):
        verb.add_argument("--homeserver", required=True)
    for verb in (accounts, shown, where):
        verb.add_argument("--token-file", required=True, type=pathlib.Path)
    for verb in (admin, accounts):
        verb.add_argument("--password", required=True)
    wait.add_argument("--seconds", type=int, default=60)
    admin.add_argument("--secret", required=True)
    admin.add_argument("name")
    accounts.add_argument("--server", required=True)
    accounts.add_argument("--without", action="append", default=[], help="a uid that gets no account")
    where.add_argument("user")
    return parser.parse_args()


def main():
    given = arguments()
    hs = getattr(given, "homeserver", "").rstrip("/")
    token = given.token_file.read_text().strip() if hasattr(given, "token_file") else None
    if given.verb == "port":
        print(free_port(given.wanted))
    elif given.verb == "wait":
        wait_for(hs, given.seconds)
    elif given.verb == "admin":
        print(make_admin(hs, given.secret, given.name, given.password))
    elif given.verb == "accounts":
        print(make_accounts(hs, token, given.server, sys.stdin.read(), given.password, set(given.without)))
    elif given.verb == "tree":
        print("\n".join(tree(all_rooms(hs, token)) or ["no rooms at all"]))
    else:
        print("\n".join(whereabouts(all_rooms(hs, token), given.user)))


if __name__ == "__main__":
    try:
        main()
    except (Refused, OSError) as error:
        sys.exit(f"matrix.py: {error}")
