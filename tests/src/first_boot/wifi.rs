//! Wi-Fi: two simulated radios (the kernel's `mac80211_hwsim`) are in the machine from power-on. One is left to the
//! appliance; the other is moved to a network namespace and plays the owner's router: access point, DHCP, and a record
//! of every frame that comes over the air.

use std::fmt::Write as _;

use data_encoding::{BASE64, HEXLOWER};
use qemu::Credential;

use crate::appliance::Appliance;
use crate::check::{Verdict, fail, none_of};

/// A name and a passphrase with everything that a careless configuration file would stumble over.
const SSID: &str = "Ada\u{2019}s \"net\"";
const PASSPHRASE: &str = r#"p"a\ss #w0rd"#;

/// What the owner changes to later.
const WPA3_PASSPHRASE: &str = "correct horse battery";

/// The address that the router gives by DHCP.
const LEASE: &str = "192.0.2.50";

/// The address that the owner sets later.
const FIXED: &str = "192.0.2.60";

/// Gives a radio to the network namespace `air`.
const MOVE: &str = include_str!("wifi/move.py");

/// The router behind the access point: answers DHCP, and writes a line for every frame that somebody else sent.
const ROUTER: &str = include_str!("wifi/router.py");

/// The radios, for `MachineSpec::credentials`: there before anything of the network is, as built-in ones are.
pub(super) fn radios() -> [Credential; 2] {
    let unit = "[Unit]\nDescription=Two simulated radios\nDefaultDependencies=no\nConflicts=shutdown.target\n\
                Before=shutdown.target\n[Service]\nType=oneshot\nRemainAfterExit=yes\n\
                ExecStart=/usr/sbin/modprobe mac80211_hwsim radios=2\n";
    [
        Credential::new("systemd.extra-unit.radios.service", unit),
        Credential::new("systemd.unit-dropin.sysinit.target~radios", "[Unit]\nWants=radios.service\n"),
    ]
}

/// The section of the owner's settings, in TOML.
pub(super) fn section() -> String {
    wifi(PASSPHRASE, "")
}

fn wifi(passphrase: &str, more: &str) -> String {
    format!("[network.wifi]\nssid = '{SSID}'\npassphrase = '{passphrase}'\ncountry = \"DE\"\n{more}")
}

/// Puts a file for root alone into the folder of the test.
fn file(name: &str, content: &str) -> String {
    format!(
        "install -d -m 0700 /run/cipolla-test\n(umask 077; echo '{}' | base64 -d >/run/cipolla-test/{name})\n",
        BASE64.encode(content.as_bytes())
    )
}

/// (Re)starts the access point; `network` is what it offers beside its name, for `wpa_supplicant.conf(5)`.
fn access_point(network: &str) -> String {
    let ssid = HEXLOWER.encode(SSID.as_bytes());
    let conf = format!(
        "country=DE\nsae_pwe=2\nnetwork={{\nmode=2\nfrequency=2412\nssid={ssid}\nproto=RSN\npairwise=CCMP\n{network}}}\n"
    );
    file("air.conf", &conf)
        + "systemctl stop air-point.service 2>/dev/null
systemd-run --quiet --unit=air-point -p NetworkNamespacePath=/run/netns/air \
  wpa_supplicant -i \"$(cat /run/cipolla-test/air)\" -c /run/cipolla-test/air.conf
"
}

/// Changes the settings as the owner would.
fn apply(section: &str) -> String {
    let settings = format!("[owner]\nmailbox = \"grace\"\n{section}");
    file("new.toml", &settings) + "cipolla settings apply /run/cipolla-test/new.toml\n"
}

/// Repeats a condition of the shell until it holds; says what is instead, and fails, after a minute and a half.
fn until(condition: &str, instead: &str) -> String {
    format!(
        "for i in $(seq 180); do if {condition}; then break; fi; sleep 0.5; done
if ! {{ {condition}; }}; then {instead}; exit 1; fi\n"
    )
}

/// The appliance's radio as `$radio`, and how far it got. The answer comes to a socket that the sandboxed daemon must see.
const RADIO: &str = "radio=$(basename \"$(dirname /sys/class/net/*/phy80211)\")
status() { wpa_cli -p /run/wpa_supplicant -s /run/wpa_supplicant -i $radio status; }
say() { status; networkctl --no-legend; systemctl status --no-pager -n 30 wpa_supplicant@$radio.service; } >&2
";

/// Waits until the radio has joined and has this address.
fn joined(address: &str) -> String {
    let condition = format!(
        "status 2>/dev/null | grep -qx wpa_state=COMPLETED && ip -4 -o address show dev $radio | grep -qF ' {address}/24 '"
    );
    until(&condition, "say")
}

/// The appliance joins at power-on, with one of the radios, and takes an address.
pub(super) fn joins(appliance: &mut Appliance) -> Verdict {
    // The key comes from another implementation of IEEE 802.11's mapping than the appliance's.
    let key = format!(
        "python3 -c 'import hashlib, sys; print(hashlib.pbkdf2_hmac(\"sha1\", open(\"/run/cipolla-test/secret\", \
         \"rb\").read(), bytes.fromhex(\"{}\"), 4096, 32).hex())'",
        HEXLOWER.encode(SSID.as_bytes())
    );
    let key = appliance.read(&(file("secret", PASSPHRASE) + &key))?;
    let units = appliance
        .read("systemctl list-units --plain --no-legend --state=active 'wpa_supplicant@*.service'")?;
    let units: Vec<_> = units.lines().filter_map(|line| line.split_whitespace().next()).collect();
    let [unit] = units.as_slice() else {
        return fail(format!("two radios, one network, and these run: {units:?}"));
    };
    let mine = unit.trim_start_matches("wpa_supplicant@").trim_end_matches(".service");
    let mut script = file("move.py", MOVE) + &file("router.py", ROUTER);
    write!(
        script,
        "set -e
for other in /sys/class/net/*/phy80211; do
  other=$(basename $(dirname $other)); if [ $other != {mine} ]; then break; fi
done
echo $other >/run/cipolla-test/air
ip netns add air
python3 /run/cipolla-test/move.py $other
set +e
"
    )?;
    script += &access_point(&format!("key_mgmt=WPA-PSK\npsk={}\n", key.trim()));
    script += "ip -n air address add 192.0.2.1/24 dev $(cat /run/cipolla-test/air)
systemd-run --quiet --unit=air-router -p NetworkNamespacePath=/run/netns/air \
  python3 /run/cipolla-test/router.py $(cat /run/cipolla-test/air)
";
    appliance.read(&script)?;
    // Two scripts, since each has its time.
    let mut script = RADIO.to_owned() + &joined(LEASE);
    script += &until("networkctl --no-legend list $radio | grep -q 'routable *configured'", "say");
    script += "status | grep ^key_mgmt=; ip -4 route show default dev $radio; stat -c '%a %U' /etc/wpa_supplicant/wpa_supplicant.conf";
    let said = appliance.read(&script)?;
    let mut findings = Vec::new();
    for wanted in ["key_mgmt=WPA2-PSK", "default via 192.0.2.1 ", "metric 2048", "600 root"] {
        if !said.contains(wanted) {
            findings.push(format!("there is no {wanted:?} in: {said}"));
        }
    }
    none_of(&findings)
}

/// It started after the firewall, and cannot do otherwise.
pub(super) fn waits_for_firewall(appliance: &mut Appliance) -> Verdict {
    let script = format!(
        "{RADIO}systemctl show -P ActiveEnterTimestampMonotonic nftables.service
systemctl show -P ExecMainStartTimestampMonotonic wpa_supplicant@$radio.service
systemctl show -P Requisite wpa_supplicant@$radio.service"
    );
    let output = appliance.read(&script)?;
    let lines: Vec<_> = output.lines().collect();
    let [firewall, radio, requires] = lines.as_slice() else { return fail(output) };
    let mut findings = Vec::new();
    if firewall.parse::<u64>()? == 0 || firewall.parse::<u64>()? >= radio.parse::<u64>()? {
        findings.push(format!("the firewall was up at {firewall} µs, the radio's service at {radio} µs"));
    }
    for unit in ["nftables.service", "cipolla-boot.service"] {
        if !requires.split(' ').any(|one| one == unit) {
            findings.push(format!("{unit} is not required: {requires}"));
        }
    }
    none_of(&findings)
}

/// The cable is out; everybody tries to get something out, Tor too. In the air: keys of the radio, DHCP, ARP, and
/// Tor's connections; all of it under a made-up hardware address, and DHCP without a name.
pub(super) fn carries_only_dhcp_and_tor(appliance: &mut Appliance) -> Verdict {
    let script = format!(
        "{RADIO}for wire in $(ls -d /sys/class/net/e*); do ip link set $(basename $wire) down; done
for who in root postfix roundcube nobody; do
  for to in 'tcp 192.0.2.1 80' 'udp 192.0.2.1 53' 'udp 192.0.2.1 123'; do
    setpriv --reuid=$who --regid=nogroup --clear-groups python3 -c 'import socket, sys
kind, address, port = sys.argv[1:]
s = socket.socket(socket.AF_INET, socket.SOCK_STREAM if kind == \"tcp\" else socket.SOCK_DGRAM)
s.settimeout(0.3)
try: s.connect((address, int(port))); s.send(b\"x\"); print(\"sent\", *sys.argv[1:])
except OSError: pass' $to
  done
done
systemctl restart tor@default.service
{}ip -j -d link show dev $radio | python3 -c 'import json, sys; link = json.load(sys.stdin)[0]; print(\"address\", link[\"address\"], link.get(\"permaddr\", link[\"address\"]))'
cat /run/cipolla-test/air.txt",
        until("grep -q ^tcp /run/cipolla-test/air.txt", "cat /run/cipolla-test/air.txt >&2")
    );
    let said = appliance.read(&script)?;
    let addresses = said.lines().find_map(|line| line.strip_prefix("address ")?.split_once(' '));
    let Some((address, permanent)) = addresses else { return fail(said) };
    let mut findings = Vec::new();
    // Bit 1 of the first octet: administered locally (IEEE 802, 8.2.2).
    let local = u8::from_str_radix(&address[..2], 16).is_ok_and(|octet| octet & 2 != 0);
    if address == permanent || !local {
        findings.push(format!("the radio shows {address}, its own address is {permanent}"));
    }
    let (mut dhcp, mut tor) = (0, 0);
    for line in said.lines().filter(|line| !line.starts_with("address ")) {
        let words: Vec<_> = line.split(' ').collect();
        let fits = match words.as_slice() {
            [_, source, ..] if *source != address => false,
            ["eapol", _] => true,
            ["arp", _, asked] => [LEASE, "192.0.2.1"].contains(asked),
            ["dhcp", _, options @ ..] => {
                dhcp += 1;
                // Host name, vendor, client's full name (RFC 2132, RFC 4702).
                !options.iter().any(|option| ["12", "60", "81"].contains(option))
            }
            ["tcp", _, to, _] => {
                tor += 1;
                *to != "192.0.2.1"
            }
            // The router's own kernel tells bridges where the newcomer is, in its name: 802.2 XID (IEEE 802.11F).
            ["ethertype", _, "0x6"] => true,
            _ => false,
        };
        if !fits {
            findings.push(format!("over the air, from {address}: {line}"));
        }
    }
    if dhcp == 0 || tor == 0 {
        findings.push(format!("{dhcp} packets of DHCP and {tor} of Tor: too few"));
    }
    none_of(&findings)
}

/// With the wrong passphrase there is no address, and the reason is in the journal.
pub(super) fn wrong_passphrase_stays_out(appliance: &mut Appliance) -> Verdict {
    let script = apply(&wifi("not the passphrase", ""))
        + RADIO
        + &until("journalctl -b -u wpa_supplicant@$radio.service | grep -q reason=WRONG_KEY", "say")
        + &until("test -z \"$(ip -4 -o address show dev $radio)\"", "say")
        // It may be too busy to answer.
        + &until("status | grep -q ^wpa_state=", "say")
        + "status | grep ^wpa_state=";
    let status = appliance.read(&script)?;
    if status.contains("wpa_state=COMPLETED") { fail(status) } else { Ok(Ok(())) }
}

/// The network does not announce itself and wants WPA3; the address is the owner's.
pub(super) fn joins_hidden_wpa3_with_fixed_address(appliance: &mut Appliance) -> Verdict {
    let fixed = format!("hidden = true\naddress = \"{FIXED}/24\"\ngateway = \"192.0.2.1\"\n");
    let offer =
        format!("key_mgmt=SAE\nieee80211w=2\nignore_broadcast_ssid=1\nsae_password=\"{WPA3_PASSPHRASE}\"\n");
    let script = access_point(&offer)
        + &apply(&wifi(WPA3_PASSPHRASE, &fixed))
        + RADIO
        + &joined(FIXED)
        + "status | grep ^key_mgmt=";
    let said = appliance.read(&script)?;
    if said.lines().any(|line| line == "key_mgmt=SAE") { Ok(Ok(())) } else { fail(said) }
}

/// None of the passphrases is in the journal, a command line, an environment, or a file that others can read.
pub(super) fn passphrases_stay_secret(appliance: &mut Appliance) -> Verdict {
    let passphrases = [PASSPHRASE, WPA3_PASSPHRASE, "not the passphrase"];
    // As digits they are in the configuration, which shows that the search finds them.
    let digits = passphrases.map(|passphrase| HEXLOWER.encode(passphrase.as_bytes()));
    let secrets = [passphrases.join("\n"), digits.join("\n")].join("\n");
    let script = file("secrets", &secrets)
        + "cd /run/cipolla-test
journalctl -b -o export | grep -aqF -f secrets && echo 'the journal has one'
cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null | grep -aqF -f secrets && echo 'a process shows one'
find /etc /run /tmp /var -xdev -type f -perm /o+r -exec grep -lF -f secrets {} + 2>/dev/null
grep -qF -f secrets /etc/wpa_supplicant/wpa_supplicant.conf || echo 'the search finds nothing at all'";
    let said = appliance.run(script.as_str())?;
    none_of(&said.stdout.lines().map(str::to_owned).collect::<Vec<_>>())
}

/// Without Wi-Fi in the settings the radio is left alone. With it, but without a firewall, too.
pub(super) fn fails_closed(appliance: &mut Appliance) -> Verdict {
    let down = "! systemctl -q is-active wpa_supplicant@$radio.service && test \"$(cat /sys/class/net/$radio/operstate)\" = down";
    let script = apply("")
        + RADIO
        + &until(down, "say")
        + &apply(&wifi(PASSPHRASE, ""))
        + &until("systemctl -q is-active wpa_supplicant@$radio.service", "say")
        + "systemctl stop nftables.service\n"
        + &until("! systemctl -q is-active wpa_supplicant@$radio.service", "say")
        + "echo 'not a ruleset' >/etc/nftables.conf
systemctl start wpa_supplicant@$radio.service systemd-networkd.service; echo \"status $?\"
systemctl is-active nftables.service wpa_supplicant@$radio.service systemd-networkd.service";
    let said = appliance.run(&script)?;
    // Before that stands what `settings apply` has to say.
    let lines: Vec<_> = said.stdout.lines().skip_while(|line| !line.starts_with("status ")).collect();
    match lines.as_slice() {
        [status, "failed", "inactive", "inactive"] if *status != "status 0" => Ok(Ok(())),
        _ => fail(format!("{}{}", said.stdout, said.stderr)),
    }
}
