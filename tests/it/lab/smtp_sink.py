"""A mail server on loopback that keeps what it is given: one JSON line a letter. Debian's aiosmtpd does the protocol.

smtp_sink.py OUT [--tls CERT KEY] [--starttls CERT KEY] [--login USER PASS]   prints its port, then runs until stdin closes

The part of an address before the `@` says what becomes of it: `never*` is refused for good, `later*` for now.
"""

import json
import socket
import ssl
import sys

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult


class Sink:
    def __init__(self, out):
        self.out = out

    async def handle_RCPT(self, server, session, envelope, address, options):
        if address.startswith("never"):
            return f"550 5.1.1 <{address}> is nobody here"
        if address.startswith("later"):
            return f"451 4.7.1 <{address}> not now"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):
        letter = {
            "from": envelope.mail_from,
            "to": envelope.rcpt_tos,
            "encrypted": server.transport.get_extra_info("sslcontext") is not None,
            "login": session.auth_data.decode() if session.auth_data else None,
            "content": envelope.content.decode(),
        }
        with open(self.out, "a", encoding="utf-8") as out:
            out.write(json.dumps(letter) + "\n")
        return "250 kept"


def context(names):
    if not names:
        return None
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(*names)
    return made


def option(name, count):
    if name not in sys.argv:
        return None
    at = sys.argv.index(name) + 1
    return sys.argv[at : at + count]


login = option("--login", 2)
wrapped = context(option("--tls", 2))
upgrade = context(option("--starttls", 2))


def authenticate(server, session, envelope, mechanism, data):
    fine = login and [data.login.decode(), data.password.decode()] == login
    return AuthResult(success=bool(fine), handled=False, auth_data=data.login)


class Server(Controller):
    def factory(self):
        return SMTP(
            self.handler,
            tls_context=upgrade,
            require_starttls=upgrade is not None,
            authenticator=authenticate if login else None,
            auth_required=bool(login),
            auth_require_tls=False,
            hostname="sink.test",
        )


controller = Server(Sink(sys.argv[1]), hostname="127.0.0.1", port=0, ssl_context=wrapped)


def first_connection():
    # The controller would knock at port 0; the socket it made tells the port.
    with socket.create_connection(controller.server.sockets[0].getsockname()) as connection:
        if wrapped:
            connection = ssl._create_unverified_context().wrap_socket(connection)
        connection.recv(1024)


controller._trigger_server = first_connection
controller.start()
print(controller.server.sockets[0].getsockname()[1], flush=True)
sys.stdin.read()
controller.stop()
