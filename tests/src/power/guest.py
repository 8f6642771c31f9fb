"""What happens on the appliance while the writes to its disk are recorded.

Runs as root: python3 - mail MX PEER PASSWORD SECONDS PLACE..., then python3 - changes MX PEER ROUNDS PLACE...

Whatever the appliance has promised is said in the record itself, by a write to the empty partition root-b, past every
cache and without a flush: in the record it stands behind all that was written before the promise.
"""

import email.utils
import hashlib
import mmap
import os
import pwd
import smtplib
import subprocess
import sys
import time

BLOCK = 4096
RECORD = os.open("/dev/disk/by-partlabel/root-b", os.O_WRONLY | os.O_DIRECT)


def mark(text):
    """One write: a line with the length of the text in bytes, the text, zeros up to a whole block."""
    text = text.encode()
    content = b"cipolla-mark %d\n" % len(text) + text
    # Direct writes want memory at a page's start.
    with mmap.mmap(-1, -(-len(content) // BLOCK) * BLOCK) as page:
        page.write(content)
        if os.pwrite(RECORD, page, 0) != len(page):
            raise OSError("a mark was written in part")


def state(places):
    """Every file below the places of the data partition, as sha256sum writes it."""
    lines = []
    for place in places:
        for folder, _, names in os.walk(os.path.join("/data", place)):
            for path in sorted(os.path.join(folder, name) for name in names):
                if os.path.isfile(path) and not os.path.islink(path):
                    with open(path, "rb") as file:
                        sum = hashlib.sha256(file.read()).hexdigest()
                    lines.append(f"{sum}  {os.path.relpath(path, '/data')}\n")
    return "".join(lines)


def letter(token, sender, to):
    """A message that says where it begins and ends, of 1 to 40 KB."""
    count = 16 + int(hashlib.sha256(token.encode()).hexdigest(), 16) % 620
    filler = "".join(hashlib.sha256(f"{token} {n}".encode()).hexdigest() + "\r\n" for n in range(count))
    return (
        f"From: <{sender}>\r\nTo: <{to}>\r\nSubject: {token}\r\nDate: {email.utils.formatdate()}\r\n"
        f"Message-ID: <{token}@{sender.split('@')[1]}>\r\n\r\n{token}-begin\r\n{filler}{token}-end\r\n"
    )


class Circuit(smtplib.SMTP):
    """Port 25 as Tor reaches it: the circuit's number goes ahead of the dialogue."""

    number = 0

    def _get_socket(self, host, port, timeout):
        Circuit.number += 1
        connected = super()._get_socket(host, port, timeout)
        connected.sendall(b"PROXY TCP6 fc00:dead:beef:4dad::1:%x ::1 25 25\r\n" % Circuit.number)
        return connected


def stranger(mx, peer, _):
    """Somebody else's server: each message over a circuit of its own, for a mailbox here."""
    sender, to = f"x@{peer}", f"ada@{mx}"

    def send(token):
        with Circuit("127.0.0.1", 10025, local_hostname=peer, timeout=60) as smtp:
            smtp.sendmail(sender, [to], letter(token, sender, to))

    return "debian-tor", send


def webmail(mx, peer, password):
    """The webmail, for a mailbox here and for an onion that does not answer, in turn: that mail stays in the queue."""
    sender, smtp = f"bob@{mx}", None

    def send(token):
        nonlocal smtp
        if smtp is None:
            smtp = smtplib.SMTP("127.0.0.1", 10587, local_hostname="localhost", timeout=60)
            smtp.login(sender, password)
        to = f"ada@{mx}" if int(token.rsplit("-", 1)[1]) % 2 else f"x@{peer}"
        smtp.sendmail(sender, [to], letter(token, sender, to))

    return "roundcube", send


def program(mx, _peer, _):
    """A program of the appliance, through sendmail(1): accepted when it ends with 0."""
    sender, to = f"ada@{mx}", f"bob@{mx}"

    def send(token):
        text = letter(token, sender, to).replace("\r\n", "\n")
        subprocess.run(["sendmail", "-f", sender, to], input=text.encode(), check=True)

    return "root", send


def done(places, *command, text=""):
    """Changes a setting. What it left is promised when the command has ended."""
    ran = subprocess.run(command, input=text, capture_output=True, text=True)
    if ran.returncode:
        sys.exit(f"{command}: {ran.returncode}: {ran.stdout}{ran.stderr}")
    mark("state\n" + state(places))


def mail(mx, peer, password, seconds, *places):
    mark("state\n" + state(places))
    done(places, "cipolla", "user", "add", "bob", "--stdin", text=f"{password}\n")
    mark("mail")
    until = time.monotonic() + float(seconds)
    children = []
    for way in stranger, webmail, program:
        child = os.fork()
        if child:
            children.append(child)
            continue
        user, send = way(mx, peer, password)
        if user != "root":
            who = pwd.getpwnam(user)
            os.setgroups([])
            os.setgid(who.pw_gid)
            os.setuid(who.pw_uid)
        number = 0
        # A child must not return into its parent's code.
        try:
            while time.monotonic() < until:
                token = f"power-{way.__name__}-{number}"
                send(token)
                mark(f"accepted {token}")
                number += 1
        except Exception as error:
            print(f"{way.__name__}, message {number}: {error!r}", flush=True)
            os._exit(1)
        os._exit(0)
    if any([os.waitpid(child, 0)[1] for child in children]):
        sys.exit(1)


def changes(_, peer, rounds, *places):
    mark("changes")
    for n in range(int(rounds)):
        done(places, "cipolla", "user", "add", f"user{n}", "--stdin", text="nine ordinary lantern Umbrellas\n")
        done(places, "cipolla", "alias", "add", f"also{n}", f"user{n}")
        done(places, "cipolla", "access", "add", f"device{n}")
        done(places, "cipolla", "block", "add", f"spammer{n}@{peer}")
        file = "/run/cipolla-settings.toml"
        with open(file, "w") as settings:
            settings.write(f'[owner]\nmailbox = "ada"\n[mail]\nmessage_size_mib = {9 + n}\nquota = "{n + 3}G"\n')
        done(places, "cipolla", "settings", "apply", file)


{"mail": mail, "changes": changes}[sys.argv[1]](*sys.argv[2:])
