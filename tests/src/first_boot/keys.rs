//! The keys: what Tor makes of them, what a second implementation makes of them, whose they are, and that two
//! appliances have none in common.

use std::collections::BTreeMap;

use anyhow::{Context as _, anyhow};
use data_encoding::{BASE32_NOPAD, BASE64};
use ed25519_compact::x25519;
use tiny_keccak::{Hasher as _, Sha3};

use super::State;
use crate::appliance::Appliance;
use crate::check::{Verdict, none_of};
use crate::journal;
use crate::left::checksums;

const SERVICES: [&str; 3] = ["mx", "client", "admin"];

/// The headers of Tor's key files (tor's `crypto_format.c`), padded with zeros to 32 bytes.
const SECRET: &[u8; 32] = b"== ed25519v1-secret: type0 ==\0\0\0";
const PUBLIC: &[u8; 32] = b"== ed25519v1-public: type0 ==\0\0\0";

/// Lets the real Tor, without network, work out the addresses of copies of the services that have no hostname
/// file, and prints them. Ends as soon as all are there.
const TOR: &str = "set -e
dir=/run/cipolla-tor
rm -rf $dir
mkdir -m 0711 $dir
for name in mx client admin; do
  cp -a /var/lib/tor/$name $dir/$name
  rm $dir/$name/hostname
  printf 'HiddenServiceDir %s\\nHiddenServicePort 80 127.0.0.1:9\\n' $dir/$name >>$dir/torrc
done
mkdir $dir/data
chown debian-tor $dir $dir/data
chmod 0644 $dir/torrc
runuser -u debian-tor -- timeout 60 tor --defaults-torrc /dev/null -f $dir/torrc --DataDirectory $dir/data \\
  --SocksPort 0 --DisableNetwork 1 --Log 'notice stdout' >$dir/log &
tor=$!
while kill -0 $tor 2>/dev/null; do
  test -e $dir/mx/hostname && test -e $dir/client/hostname && test -s $dir/admin/hostname && break
  sleep 0.2
done
kill $tor 2>/dev/null || true
wait $tor || true
cat $dir/mx/hostname $dir/client/hostname $dir/admin/hostname || { cat $dir/log >&2; exit 1; }
rm -rf $dir";

/// The key files are Tor's byte for byte, each secret key belongs to its public one, and the address is what Tor
/// and a second implementation make of it. The Tor that runs has nothing to complain about.
pub(super) fn key_files_match_tor(state: &mut State) -> Verdict {
    let appliance = &mut state.appliance;
    let mut findings = Vec::new();
    let tors = appliance.read(TOR)?;
    for (service, tor) in SERVICES.into_iter().zip(tors.lines()) {
        let file = |name: &str| format!("base64 -w0 /var/lib/tor/{service}/{name}");
        let secret = BASE64.decode(appliance.read(&file("hs_ed25519_secret_key"))?.as_bytes())?;
        let public = BASE64.decode(appliance.read(&file("hs_ed25519_public_key"))?.as_bytes())?;
        let hostname = appliance.read(&format!("cat /var/lib/tor/{service}/hostname"))?;
        findings
            .extend(judge(&secret, &public, &hostname).into_iter().map(|what| format!("{service}: {what}")));
        if hostname.trim() != tor {
            findings.push(format!("{service}: hostname is {:?}, Tor says {tor:?}", hostname.trim()));
        }
    }
    let running = appliance.read("journalctl -b -u tor@default -p warning -o json --no-pager")?;
    findings.extend(journal::unacceptable(&running, true)?);
    none_of(&findings)
}

fn judge(secret: &[u8], public: &[u8], hostname: &str) -> Vec<String> {
    let mut findings = Vec::new();
    let [Some((SECRET, expanded)), Some((PUBLIC, point))] = [secret, public].map(<[u8]>::split_first_chunk)
    else {
        return vec!["a key file has another header than Tor's".to_owned()];
    };
    let (Some(scalar), Ok(point)) = (expanded.get(..32), <[u8; 32]>::try_from(point)) else {
        return vec!["a key file has another length than Tor's".to_owned()];
    };
    if expanded.len() != 64 {
        findings.push(format!("the secret key has {} bytes", expanded.len()));
    }
    // The same point in Montgomery's form: it leaves out the sign, which Tor itself has looked at.
    let ours = x25519::SecretKey::from_slice(scalar).and_then(|scalar| scalar.recover_public_key());
    let theirs = x25519::PublicKey::from_ed25519(&ed25519_compact::PublicKey::new(point));
    match (ours, theirs) {
        (Ok(ours), Ok(theirs)) if ours == theirs => {}
        _ => findings.push("the public key does not belong to the secret one".to_owned()),
    }
    let address = address_of(&point);
    if hostname != format!("{address}\n") {
        findings.push(format!("hostname holds {hostname:?}, the key is that of {address}"));
    }
    findings
}

/// The address of a public key (rend-spec-v3, "Encoding onion addresses").
fn address_of(public: &[u8; 32]) -> String {
    let mut checksum = [0; 32];
    let mut hash = Sha3::v256();
    hash.update(b".onion checksum");
    hash.update(public);
    hash.update(&[3]);
    hash.finalize(&mut checksum);
    let bytes = [&public[..], &checksum[..2], &[3]].concat();
    BASE32_NOPAD.encode(&bytes).to_lowercase() + ".onion"
}

/// Folders and files of the services: Tor's alone.
pub(super) fn hs_dirs(state: &mut State) -> Verdict {
    let listed =
        state.appliance.read("cd /var/lib/tor && find mx client admin -printf '%y %m %u:%g %p\\n'")?;
    let mut findings = Vec::new();
    for line in listed.lines() {
        let wanted = match line.chars().next() {
            Some('d') => "d 700 debian-tor:debian-tor ",
            _ => "f 600 debian-tor:debian-tor ",
        };
        if !line.starts_with(wanted) {
            findings.push(format!("{line} (wanted: {})", wanted.trim()));
        }
    }
    let expected = SERVICES.len() * 5 + 1;
    if listed.lines().count() != expected {
        findings.push(format!("there are {} entries, not {expected}:\n{listed}", listed.lines().count()));
    }
    none_of(&findings)
}

/// Everything that must be an appliance's own: onion keys and addresses, certificates and their keys, password
/// hashes, the webmail's key, waiting credentials, SSH host key, machine-id, systemd's own secrets.
const OWN: &str = "find /var/lib/tor/mx /var/lib/tor/client /var/lib/tor/admin /var/lib/cipolla/tls \
                   /var/lib/cipolla/private/ca.pem /var/lib/cipolla/private/mx.pem \
                   /var/lib/cipolla/private/client.pem /var/lib/cipolla/private/credentials \
                   /var/lib/cipolla/mail/users /var/lib/cipolla/web /etc/ssh/ssh_host_ed25519_key \
                   /etc/ssh/ssh_host_ed25519_key.pub /etc/machine-id /var/lib/systemd/random-seed \
                   -type f -size +0 -exec sha256sum {} +";

/// How many of those there are at least: a list that shrank shows nothing.
const LEAST: usize = 25;

/// What makes this machine unlike all others, by path.
pub(crate) fn identity(appliance: &mut Appliance) -> anyhow::Result<BTreeMap<String, String>> {
    let identity = checksums(&appliance.read(OWN)?);
    let few = || anyhow!("only {} files make this appliance unlike others", identity.len());
    (identity.len() >= LEAST).then_some(()).with_context(few)?;
    Ok(identity)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Address of the Tor Project's site, whose bytes hold its public key.
    const KNOWN: &str = "2gzyxa5ihm7nsggfxnu52rck2vv4rvmdlkiu3zzui5du4xyclen53wid";

    #[test]
    fn addresses_are_worked_out() {
        let bytes = BASE32_NOPAD.decode(KNOWN.to_uppercase().as_bytes()).unwrap();
        let public = <[u8; 32]>::try_from(&bytes[..32]).unwrap();
        assert_eq!(address_of(&public), format!("{KNOWN}.onion"));
        let file = [&PUBLIC[..], &public].concat();
        let stranger = [&SECRET[..], &[8; 64]].concat();
        let findings = judge(&stranger, &file, &format!("{KNOWN}.onion\n"));
        assert_eq!(findings, ["the public key does not belong to the secret one"]);
        assert_eq!(judge(&file, &file, ""), ["a key file has another header than Tor's"]);
    }
}
