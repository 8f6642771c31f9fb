"""Submits a hundred messages as the owner's programs do: submit.py ADDRESS, the password on stdin, as Tor's user.

Four circuits with a connection each: TLS, a password, the spam check.
"""
import concurrent.futures
import smtplib
import socket
import ssl
import sys

CIRCUITS, EACH = 4, 25  # A circuit may send 30 messages a minute.
PORT = 10465
ENOUGH = 300  # seconds

address = sys.argv[1]
password = sys.stdin.readline().rstrip("\n")
tls = ssl.create_default_context()
# The certificate is not what is measured.
tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE


class Submission(smtplib.SMTP_SSL):
    """A connection on which Tor has already said whose it is (PROXY protocol, version 1)."""

    def _get_socket(self, host, port, timeout):
        plain = socket.create_connection((host, port), timeout)
        plain.sendall(b"PROXY TCP6 fc00:dead:beef:4dad::be:%x ::1 %d 465\r\n" % (self.number, self.number))
        return tls.wrap_socket(plain)

    def __init__(self, number):
        self.number = number
        super().__init__("127.0.0.1", PORT, local_hostname="bench.invalid", timeout=ENOUGH)


def submit(number):
    """Sends one circuit's messages."""
    with Submission(number) as session:
        session.login(address, password)
        for count in range(EACH):
            text = f"From: {address}\r\nTo: {address}\r\nSubject: {number}.{count}\r\n\r\n" + "benchmark " * 190
            session.sendmail(address, [address], text)


with concurrent.futures.ThreadPoolExecutor(CIRCUITS) as pool:
    list(pool.map(submit, range(1, CIRCUITS + 1)))
