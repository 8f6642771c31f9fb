//! Configuration of the private Tor network. Pure. Options are those of tor(1), version 0.4.9.

use std::net::Ipv4Addr;
use std::path::Path;

/// Where relays take connections.
pub(super) const OR_PORT: u16 = 9001;

/// Where directory authorities answer over HTTP.
pub(super) const DIR_PORT: u16 = 9030;

/// Where a bridge takes obfs4.
pub(super) const OBFS4_PORT: u16 = 9002;

/// What one Tor does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Votes, and relays.
    Authority(Ipv4Addr),
    /// Relays, and keeps descriptors of onion services.
    Relay(Ipv4Addr),
    /// Uses the network.
    Client,
    /// Is a way into the network for who knows of it, through obfs4 on [`OBFS4_PORT`].
    Bridge(Ipv4Addr),
}

/// The file `torrc` of one Tor. `folder` holds its sockets and data; nobody else may enter it. `authorities` are
/// the values of `DirAuthority`.
pub(super) fn torrc(role: Role, name: &str, folder: &Path, authorities: &[String]) -> String {
    let folder = folder.display();
    let mut text = format!(
        "DataDirectory {folder}/data\n\
         ControlSocket {folder}/control\n\
         CookieAuthentication 0\n\
         Log notice stdout\n\
         SafeLogging 0\n\
         TestingTorNetwork 1\n\
         PathsNeededToBuildCircuits 0.67\n"
    );
    text.extend(authorities.iter().map(|line| format!("DirAuthority {line}\n")));
    match role {
        Role::Client => {
            text.push_str(&format!("SocksPort unix:{folder}/socks IsolateSOCKSAuth ExtendedErrors\n"));
            // For programs that speak SOCKS over TCP only. The port is any that is free in the lab.
            text.push_str("SocksPort 127.0.0.1:auto IsolateSOCKSAuth\n");
        }
        Role::Relay(address) => text.push_str(&relay(name, address)),
        Role::Bridge(address) => {
            text.push_str(&relay(name, address));
            text.push_str(&format!(
                "BridgeRelay 1\n\
                 PublishServerDescriptor 0\n\
                 ServerTransportPlugin obfs4 exec /usr/bin/obfs4proxy\n\
                 ServerTransportListenAddr obfs4 {address}:{OBFS4_PORT}\n\
                 ExtORPort auto\n"
            ));
        }
        Role::Authority(address) => {
            text.push_str(&relay(name, address));
            text.push_str(&format!("DirPort {address}:{DIR_PORT}\n"));
            text.push_str(AUTHORITY);
        }
    }
    text
}

/// Nobody measures the relays of a private network, so they have to assume that they can be reached. They make no
/// differences between consensuses: they would be made from each older one to each newer one, compressed in five ways, by
/// each relay, and after twenty minutes that is most of what a lab does.
fn relay(name: &str, address: Ipv4Addr) -> String {
    format!(
        "Nickname {name}\n\
         ContactInfo none\n\
         Address {address}\n\
         OutboundBindAddress {address}\n\
         ORPort {address}:{OR_PORT}\n\
         SocksPort 0\n\
         ExitRelay 0\n\
         AssumeReachable 1\n\
         MaxConsensusAgeForDiffs 1 minute\n"
    )
}

/// A first consensus within 20 s, as soon as the clock allows, then one every 30 s: each costs all that take part some
/// work, but what joins later is not known before, and the first one may have been too early for half of the relays. Every
/// relay gets the flags that clients look for without having to be up for days.
const AUTHORITY: &str = "AuthoritativeDirectory 1\n\
    V3AuthoritativeDirectory 1\n\
    TestingV3AuthInitialVotingInterval 20\n\
    TestingV3AuthInitialVoteDelay 4\n\
    TestingV3AuthInitialDistDelay 4\n\
    V3AuthVotingInterval 30\n\
    V3AuthVoteDelay 6\n\
    V3AuthDistDelay 6\n\
    V3AuthNIntervalsValid 2\n\
    TestingDirAuthVoteExit *\n\
    TestingDirAuthVoteGuard *\n\
    TestingDirAuthVoteHSDir *\n";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_four_roles() {
        let authorities = ["auth1 orport=9001 v3ident=AA 10.77.0.11:9030 BB".to_owned()];
        let torrc = |role, name| torrc(role, name, Path::new("/run/x"), &authorities);
        let all = [
            torrc(Role::Authority(Ipv4Addr::new(10, 77, 0, 11)), "auth1"),
            torrc(Role::Relay(Ipv4Addr::new(10, 77, 0, 14)), "relay1"),
            torrc(Role::Client, "client"),
            torrc(Role::Bridge(Ipv4Addr::new(10, 77, 0, 30)), "bridge"),
        ];
        insta::assert_snapshot!(all.join("\n"));
    }
}
