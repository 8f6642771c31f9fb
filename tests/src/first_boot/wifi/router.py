"""The owner's router behind the access point: router.py INTERFACE.

Answers DHCP (RFC 2131) with one address, and writes a line for every frame that somebody else sent to air.txt:
`eapol SOURCE`, `arp SOURCE ASKED`, `dhcp SOURCE OPTION…`, `tcp|udp|NUMBER SOURCE DESTINATION [PORT]`,
`ethertype SOURCE TYPE`. SOURCE is a hardware address.
"""
import errno
import socket
import struct
import sys

HERE, LEASE = socket.inet_aton("192.0.2.1"), socket.inet_aton("192.0.2.50")
ALL_FRAMES, OUTGOING = 3, 4  # ETH_P_ALL, PACKET_OUTGOING
EAPOL, ARP, IPV4 = 0x888E, 0x806, 0x800
PROTOCOLS = {6: "tcp", 17: "udp"}
DISCOVER, OFFER, REQUEST, ACK = 1, 2, 3, 5

interface = sys.argv[1]
air = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ALL_FRAMES))
air.bind((interface, 0))
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
server.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
server.bind(("", 67))


def options(packet):
    """The options of a DHCP packet, by number."""
    found, at = {}, 240
    while packet[at] != 255:
        if packet[at] == 0:
            at += 1
            continue
        length = packet[at + 1]
        found[packet[at]] = packet[at + 2 : at + 2 + length]
        at += 2 + length
    return found


def answer(packet, asked):
    """Offers the address, or confirms it."""
    kind = {DISCOVER: OFFER, REQUEST: ACK}.get(asked[53][0])
    if kind is None:
        return
    reply = bytes([2, 1, 6, 0]) + packet[4:8] + bytes(8) + LEASE + HERE + bytes(4) + packet[28:44] + bytes(192)
    reply += bytes([0x63, 0x82, 0x53, 0x63, 53, 1, kind, 54, 4]) + HERE + bytes([51, 4, 0, 0, 14, 16])
    reply += bytes([1, 4, 255, 255, 255, 0, 3, 4]) + HERE + bytes([255])
    server.sendto(reply, ("255.255.255.255", 68))


with open("/run/cipolla-test/air.txt", "w", buffering=1) as record:
    while True:
        try:
            frame, (_, _, direction, _, _) = air.recvfrom(65536)
        except OSError as error:
            if error.errno != errno.ENETDOWN:
                raise
            continue  # The access point is being started.
        if direction == OUTGOING:
            continue
        source, kind, packet = frame[6:12].hex(":"), struct.unpack_from("!H", frame, 12)[0], frame[14:]
        if kind == EAPOL:
            print("eapol", source, file=record)
        elif kind == ARP:
            print("arp", source, socket.inet_ntoa(packet[24:28]), file=record)
        elif kind != IPV4:
            print("ethertype", source, hex(kind), file=record)
        else:
            start, to, protocol = (packet[0] & 15) * 4, socket.inet_ntoa(packet[16:20]), packet[9]
            ports = struct.unpack_from("!HH", packet, start) if protocol in PROTOCOLS else ()
            if protocol == 17 and ports == (68, 67):
                asked = options(packet[start + 8 :])
                print("dhcp", source, *sorted(asked), file=record)
                answer(packet[start + 8 :], asked)
            else:
                print(PROTOCOLS.get(protocol, protocol), source, to, *ports[1:], file=record)
