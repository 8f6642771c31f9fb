"""Gives the radio of an interface to the network namespace `air`: move.py INTERFACE.

NL80211_CMD_SET_WIPHY_NETNS (linux/nl80211.h), which iproute2 has no word for.
"""
import os
import socket
import struct
import sys

NETLINK_GENERIC = 16
REQUEST_AND_ACK = 5
NLMSG_ERROR = 2
CTRL = (16, 3, 2, 1)  # nlctrl: its id, CTRL_CMD_GETFAMILY, CTRL_ATTR_FAMILY_NAME, CTRL_ATTR_FAMILY_ID
SET_WIPHY_NETNS, WIPHY, NETNS_FD = 49, 1, 219


def ask(family, command, *attributes):
    """Sends one message; returns the answer, or ends with the kernel's error."""
    body = struct.pack("=BBH", command, 1, 0)
    for kind, data in attributes:
        body += struct.pack("=HH", 4 + len(data), kind) + data + bytes(-len(data) % 4)
    kernel = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_GENERIC)
    kernel.send(struct.pack("=IHHII", 16 + len(body), family, REQUEST_AND_ACK, 1, 0) + body)
    answer = kernel.recv(65536)
    if struct.unpack_from("=H", answer, 4)[0] == NLMSG_ERROR:
        code = -struct.unpack_from("=i", answer, 16)[0]
        if code:
            sys.exit(os.strerror(code))
    return answer


def attribute(answer, wanted):
    """The number in an attribute of the answer."""
    at = 20
    while at < len(answer):
        length, kind = struct.unpack_from("=HH", answer, at)
        if kind == wanted:
            return struct.unpack_from("=H", answer, at + 4)[0]
        at += (length + 3) & ~3
    sys.exit("the kernel does not know nl80211")


nlctrl, get_family, name, number = CTRL
nl80211 = attribute(ask(nlctrl, get_family, (name, b"nl80211\0")), number)
with open(f"/sys/class/net/{sys.argv[1]}/phy80211/index") as index:
    wiphy = int(index.read())
air = os.open("/run/netns/air", os.O_RDONLY)
ask(nl80211, SET_WIPHY_NETNS, (WIPHY, struct.pack("=I", wiphy)), (NETNS_FD, struct.pack("=I", air)))
