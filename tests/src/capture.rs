//! What a machine sent, seen from outside: QEMU's record of every packet of its card.
//!
//! An appliance may say three things on the wire: DHCP, the ARP that goes with it, and TCP to relays of its Tor
//! network. Everything else is a finding. What others send to the machine is counted and not judged: a scan is
//! the test's own doing.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use etherparse::{ArpPacketSlice, NetSlice, SlicedPacket, TransportSlice};

/// A packet and when it passed, counted from the first one of the record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Packet {
    pub(crate) at: Duration,
    pub(crate) frame: Vec<u8>,
}

/// Reads QEMU's `filter-dump` file.
pub(crate) fn load(file: &Path) -> anyhow::Result<Vec<Packet>> {
    parse(&fs_err::read(file)?).with_context(|| format!("reading the packets in {}", file.display()))
}

/// Takes a pcap file apart (draft-ietf-opsawg-pcap). QEMU writes it in this computer's byte order, times in
/// microseconds, Ethernet. It writes a packet with one call, so there are no halves, not even while it runs.
fn parse(bytes: &[u8]) -> anyhow::Result<Vec<Packet>> {
    const MAGIC: u32 = 0xa1b2_c3d4;
    const ETHERNET: u32 = 1;
    let (header, mut rest) = bytes.split_at_checked(24).ok_or_else(|| anyhow!("the header is cut off"))?;
    if word(header, 0) != MAGIC || word(header, 20) != ETHERNET {
        bail!("this is no pcap file of an Ethernet card: {header:02x?}");
    }
    let mut first = None;
    let mut packets = Vec::new();
    while !rest.is_empty() {
        let cut = || anyhow!("packet {} is cut off", packets.len() + 1);
        let (head, after) = rest.split_at_checked(16).ok_or_else(cut)?;
        let (kept, whole) = (word(head, 8), word(head, 12));
        if kept != whole {
            bail!("packet {} was kept to {kept} of its {whole} bytes", packets.len() + 1);
        }
        let (frame, after) =
            usize::try_from(kept).ok().and_then(|kept| after.split_at_checked(kept)).ok_or_else(cut)?;
        let time = Duration::new(word(head, 0).into(), 0) + Duration::from_micros(word(head, 4).into());
        let at = time.saturating_sub(*first.get_or_insert(time));
        packets.push(Packet { at, frame: frame.to_vec() });
        rest = after;
    }
    Ok(packets)
}

/// The four bytes at an offset that is known to be there.
fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// What a machine may say.
#[derive(Clone, Debug)]
pub(crate) struct Expected {
    /// Its card.
    pub(crate) mac: [u8; 6],
    /// The address that DHCP gives to it.
    pub(crate) address: Ipv4Addr,
    /// The DHCP server, which is also the router.
    pub(crate) gateway: Ipv4Addr,
    /// Where relays and directories of its Tor network are.
    pub(crate) relays: BTreeSet<SocketAddrV4>,
    /// The time server that its settings name, if they do.
    pub(crate) time_server: Option<Ipv4Addr>,
}

/// How all cards in a lab begin. A packet from any other was sent under a false name.
const LAB_CARDS: [u8; 4] = [0x52, 0x54, 0x00, 0x77];

/// What a packet is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    /// Sent by somebody else.
    Foreign,
    Dhcp,
    Arp,
    /// A question for the time.
    Time,
    /// To a relay; whether it asks for a connection.
    Tor {
        connect: bool,
    },
    /// It should not be there; the text says what it is.
    Finding(String),
}

/// A record, judged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) foreign: usize,
    pub(crate) dhcp: usize,
    pub(crate) arp: usize,
    /// Questions for the time.
    pub(crate) time: usize,
    pub(crate) tor: usize,
    /// How many of these ask for a connection.
    pub(crate) tor_connects: usize,
    /// One line for each kind of packet that should not be there.
    pub(crate) findings: Vec<String>,
}

/// Judges all packets. The same finding is listed once, with how often and when it was first seen.
pub(crate) fn judge(packets: &[Packet], expected: &Expected) -> Tally {
    let mut tally = Tally::default();
    let mut findings: BTreeMap<String, (Duration, usize)> = BTreeMap::new();
    for packet in packets {
        match kind(&packet.frame, expected) {
            Kind::Foreign => tally.foreign += 1,
            Kind::Dhcp => tally.dhcp += 1,
            Kind::Arp => tally.arp += 1,
            Kind::Time => tally.time += 1,
            Kind::Tor { connect } => {
                tally.tor += 1;
                tally.tor_connects += usize::from(connect);
            }
            Kind::Finding(what) => findings.entry(what).or_insert((packet.at, 0)).1 += 1,
        }
    }
    let mut findings: Vec<_> = findings.into_iter().collect();
    findings.sort_by_key(|(_, (at, _))| *at);
    tally.findings = findings
        .into_iter()
        .map(|(what, (at, times))| format!("{times} x {what}, first after {at:.1?}"))
        .collect();
    tally
}

/// A TCP or UDP packet that a machine sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sent<'p> {
    pub(crate) to: SocketAddrV4,
    pub(crate) udp: bool,
    /// Whether it asks for a TCP connection.
    pub(crate) connect: bool,
    pub(crate) payload: &'p [u8],
}

/// What a card sent over IPv4, for who looks for something in particular; [`judge`] looks at everything.
pub(crate) fn sent<'p>(packets: &'p [Packet], mac: &[u8; 6]) -> Vec<Sent<'p>> {
    let own = packets.iter().filter(|packet| packet.frame.get(6..12) == Some(mac));
    own.filter_map(|packet| {
        let packet = SlicedPacket::from_ethernet(&packet.frame).ok()?;
        let Some(NetSlice::Ipv4(ip)) = &packet.net else { return None };
        let to = |port| SocketAddrV4::new(ip.header().destination_addr(), port);
        match &packet.transport {
            Some(TransportSlice::Tcp(tcp)) => Some(Sent {
                to: to(tcp.destination_port()),
                udp: false,
                connect: tcp.syn(),
                payload: tcp.payload(),
            }),
            Some(TransportSlice::Udp(udp)) => Some(Sent {
                to: to(udp.destination_port()),
                udp: true,
                connect: false,
                payload: udp.payload(),
            }),
            _ => None,
        }
    })
    .collect()
}

fn kind(frame: &[u8], expected: &Expected) -> Kind {
    let source = frame.get(6..12);
    if source.is_some_and(|source| source.starts_with(&LAB_CARDS) && source != expected.mac) {
        return Kind::Foreign;
    }
    if source != Some(&expected.mac) {
        return Kind::Finding(format!("a packet under a false name: {frame:02x?}"));
    }
    let Ok(packet) = SlicedPacket::from_ethernet(frame) else {
        return Kind::Finding(format!("a packet that cannot be read: {frame:02x?}"));
    };
    match (&packet.net, &packet.transport) {
        (Some(NetSlice::Arp(arp)), _) => arp_kind(arp, expected),
        (Some(NetSlice::Ipv4(ip)), transport) => {
            let (from, to) = (ip.header().source_addr(), ip.header().destination_addr());
            match transport {
                Some(TransportSlice::Tcp(tcp))
                    if from == expected.address
                        && expected.relays.contains(&SocketAddrV4::new(to, tcp.destination_port())) =>
                {
                    Kind::Tor { connect: tcp.syn() }
                }
                Some(TransportSlice::Udp(udp))
                    if (udp.source_port(), udp.destination_port()) == (68, 67)
                        && (to == Ipv4Addr::BROADCAST || to == expected.gateway) =>
                {
                    Kind::Dhcp
                }
                // Whole questions only: what else is sent there is a leak (RFC 4330, section 4).
                Some(TransportSlice::Udp(udp))
                    if Some(to) == expected.time_server
                        && udp.destination_port() == 123
                        && udp.payload().len() == 48 =>
                {
                    Kind::Time
                }
                transport => Kind::Finding(told(from.into(), to.into(), transport.as_ref())),
            }
        }
        (Some(NetSlice::Ipv6(ip)), transport) => {
            let header = ip.header();
            let (from, to) = (header.source_addr(), header.destination_addr());
            Kind::Finding(told(from.into(), to.into(), transport.as_ref()))
        }
        (None, _) => Kind::Finding(format!("an Ethernet packet of type {:02x?}", frame.get(12..14))),
    }
}

/// ARP may ask for and tell about what DHCP and Tor need: the machine itself, the router, the relays.
fn arp_kind(arp: &ArpPacketSlice<'_>, expected: &Expected) -> Kind {
    let Ok(target) = <[u8; 4]>::try_from(arp.target_protocol_addr()) else {
        return Kind::Finding("ARP for something that is not IPv4".to_owned());
    };
    let target = Ipv4Addr::from(target);
    let known = target == expected.address
        || target == expected.gateway
        || Some(target) == expected.time_server
        || expected.relays.iter().any(|relay| *relay.ip() == target);
    if known { Kind::Arp } else { Kind::Finding(format!("ARP for {target}")) }
}

/// A packet in words. Source ports are left out, or no two findings would be the same.
fn told(from: IpAddr, to: IpAddr, transport: Option<&TransportSlice<'_>>) -> String {
    match transport {
        Some(TransportSlice::Tcp(tcp)) => {
            let what = match (tcp.rst(), tcp.syn(), tcp.ack()) {
                (true, ..) => " reset",
                (_, true, false) => " connect",
                (_, true, true) => " accept",
                _ => "",
            };
            format!("TCP{what} from {from} to {to} port {}", tcp.destination_port())
        }
        Some(TransportSlice::Udp(udp)) => {
            format!("UDP from {from} to {to} port {}", udp.destination_port())
        }
        Some(TransportSlice::Icmpv4(icmp)) => format!("ICMP type {} from {from} to {to}", icmp.type_u8()),
        Some(TransportSlice::Icmpv6(icmp)) => format!("ICMPv6 type {} from {from} to {to}", icmp.type_u8()),
        Some(TransportSlice::Igmp(_)) => format!("IGMP from {from} to {to}"),
        None => format!("a packet of another protocol from {from} to {to}"),
    }
}

#[cfg(test)]
mod tests {
    use etherparse::{ArpEthIpv4Packet, ArpOperation, PacketBuilder};

    use super::*;

    const MAC: [u8; 6] = [0x52, 0x54, 0, 0x77, 0, 1];
    const OTHER: [u8; 6] = [0x52, 0x54, 0, 0x77, 0xff, 1];
    const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 101);
    const RELAY: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 14);
    const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);

    fn expected() -> Expected {
        let relays = [SocketAddrV4::new(RELAY, 9001)].into();
        Expected { mac: MAC, address: ADDRESS, gateway: GATEWAY, relays, time_server: None }
    }

    fn told(frame: &[u8]) -> String {
        match kind(frame, &expected()) {
            Kind::Finding(what) => what,
            other => format!("{other:?}"),
        }
    }

    fn udp(from: Ipv4Addr, to: Ipv4Addr, ports: (u16, u16)) -> Vec<u8> {
        udp_with(from, to, ports, b"x")
    }

    fn udp_with(from: Ipv4Addr, to: Ipv4Addr, ports: (u16, u16), payload: &[u8]) -> Vec<u8> {
        let mut frame = Vec::new();
        let packet = PacketBuilder::ethernet2(MAC, OTHER).ipv4(from.octets(), to.octets(), 64);
        packet.udp(ports.0, ports.1).write(&mut frame, payload).unwrap();
        frame
    }

    fn syn(mac: [u8; 6], to: Ipv4Addr, port: u16) -> Vec<u8> {
        let mut frame = Vec::new();
        let packet = PacketBuilder::ethernet2(mac, OTHER).ipv4(ADDRESS.octets(), to.octets(), 64);
        packet.tcp(40_000, port, 1, 1000).syn().write(&mut frame, b"").unwrap();
        frame
    }

    fn arp(target: Ipv4Addr) -> Vec<u8> {
        let packet = ArpEthIpv4Packet {
            operation: ArpOperation::REQUEST,
            sender_mac: MAC,
            sender_ipv4: ADDRESS.octets(),
            target_mac: [0; 6],
            target_ipv4: target.octets(),
        };
        let mut frame = Vec::new();
        PacketBuilder::ethernet2(MAC, [0xff; 6]).arp(packet.into()).write(&mut frame).unwrap();
        frame
    }

    #[test]
    fn only_tor_and_dhcp_are_expected() {
        assert_eq!(told(&syn(MAC, RELAY, 9001)), "Tor { connect: true }");
        assert_eq!(told(&udp(Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST, (68, 67))), "Dhcp");
        assert_eq!(told(&arp(RELAY)), "Arp");
        assert_eq!(told(&arp(ADDRESS)), "Arp");
        assert_eq!(told(&syn(OTHER, GATEWAY, 22)), "Foreign");
    }

    #[test]
    fn a_time_server_is_only_asked_for_the_time() {
        let expected = Expected { time_server: Some(GATEWAY), ..expected() };
        let question = udp_with(ADDRESS, GATEWAY, (40_000, 123), &[0x23; 48]);
        assert_eq!(kind(&question, &expected), Kind::Time);
        for leak in
            [udp(ADDRESS, GATEWAY, (40_000, 123)), udp_with(ADDRESS, RELAY, (40_000, 123), &[0x23; 48])]
        {
            assert!(matches!(kind(&leak, &expected), Kind::Finding(_)));
        }
        assert!(told(&question).contains("port 123"), "settings that name no server allow none");
    }

    #[test]
    fn everything_else_is_told() {
        assert_eq!(told(&syn(MAC, RELAY, 443)), "TCP connect from 10.77.0.101 to 10.77.0.14 port 443");
        assert_eq!(told(&udp(ADDRESS, GATEWAY, (5353, 53))), "UDP from 10.77.0.101 to 10.77.0.1 port 53");
        assert_eq!(told(&arp(Ipv4Addr::new(10, 77, 0, 200))), "ARP for 10.77.0.200");
        let mut frame = Vec::new();
        let unspecified = std::net::Ipv6Addr::UNSPECIFIED.octets();
        let routers = "ff02::2".parse::<std::net::Ipv6Addr>().unwrap().octets();
        let packet = PacketBuilder::ethernet2(MAC, OTHER).ipv6(unspecified, routers, 255);
        packet.icmpv6_raw(133, 0, [0; 4]).write(&mut frame, b"").unwrap();
        assert_eq!(told(&frame), "ICMPv6 type 133 from :: to ff02::2");
        let lldp = [&OTHER[..], &MAC, &[0x88, 0xcc, 0, 0]].concat();
        assert_eq!(told(&lldp), "an Ethernet packet of type Some([88, cc])");
        assert_eq!(told(&MAC), "a packet under a false name: [52, 54, 00, 77, 00, 01]");
        assert!(told(&syn([2, 0, 0, 0, 0, 1], RELAY, 9001)).starts_with("a packet under a false name: "));
        let short = [&OTHER[..], &MAC, &[8]].concat();
        assert!(told(&short).starts_with("a packet that cannot be read: "));
    }

    /// A pcap file as QEMU 10 writes it: header, then one record for each frame, a second apart.
    fn pcap(frames: &[Vec<u8>]) -> Vec<u8> {
        let words = |all: &[u32]| all.iter().flat_map(|word| word.to_ne_bytes()).collect::<Vec<_>>();
        let mut file = words(&[0xa1b2_c3d4]);
        file.extend(2_u16.to_ne_bytes());
        file.extend(4_u16.to_ne_bytes());
        file.extend(words(&[0, 0, 65_536, 1]));
        for (number, frame) in (0..).zip(frames) {
            let length = u32::try_from(frame.len()).unwrap();
            file.extend(words(&[1_000 + number, 500_000, length, length]));
            file.extend(frame);
        }
        file
    }

    #[test]
    fn a_record_is_read_and_counted() {
        let dns = udp(ADDRESS, GATEWAY, (5353, 53));
        let file = pcap(&[arp(RELAY), syn(MAC, RELAY, 9001), dns.clone(), dns]);
        let packets = parse(&file).unwrap();
        assert_eq!(packets[2].at, Duration::from_secs(2));
        let tally = judge(&packets, &expected());
        let finding = "2 x UDP from 10.77.0.101 to 10.77.0.1 port 53, first after 2.0s".to_owned();
        assert_eq!(
            tally,
            Tally { arp: 1, tor: 1, tor_connects: 1, findings: vec![finding], ..Tally::default() }
        );
    }

    #[test]
    fn what_was_sent_is_taken_out() {
        let frames =
            [arp(RELAY), syn(MAC, RELAY, 443), udp(ADDRESS, GATEWAY, (5000, 3478)), syn(OTHER, RELAY, 1)];
        let packets = parse(&pcap(&frames)).unwrap();
        let tcp = Sent { to: SocketAddrV4::new(RELAY, 443), udp: false, connect: true, payload: b"" };
        let udp = Sent { to: SocketAddrV4::new(GATEWAY, 3478), udp: true, connect: false, payload: b"x" };
        assert_eq!(sent(&packets, &MAC), [tcp, udp]);
    }

    #[test]
    fn a_damaged_record_is_no_evidence() {
        let file = pcap(&[arp(RELAY)]);
        assert!(parse(&file[..20]).is_err());
        assert_eq!(parse(&file[..50]).unwrap_err().to_string(), "packet 1 is cut off");
        assert!(parse(&[0; 24]).is_err());
        assert_eq!(parse(&file[..24]).unwrap(), []);
    }
}
