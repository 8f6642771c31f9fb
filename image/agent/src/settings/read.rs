//! From the text of a settings file to [`Settings`].

use std::net::Ipv4Addr;
use std::rc::Rc;

use identity::mailbox::LocalPart;
use identity::onion::{AddressError, OnionAddress};
use identity::ssh::OwnerKey;
use identity::vanity::VanityPrefix;
use toml::de::{DeTable, DeValue};
use zeroize::Zeroizing;

use super::reader::{self, Found, Reader};
use super::{Imap, Network, Problem, Settings, Wifi, bridges, text, values};

/// Reads settings on top of `base`: what the text does not name stays as it is there.
///
/// # Errors
/// Every problem of the text, in its order. If it is not TOML, only the problems of syntax.
pub fn read(base: Settings, text: &str) -> Result<Settings, Vec<Problem>> {
    let (table, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        return Err(syntax(text, &errors));
    }
    let found = Found::default();
    let mut top = Reader::new(table.get_ref(), Rc::clone(&found));
    let mut settings = base;
    owner(&mut settings, top.section("owner"));
    network(&mut settings, top.section("network"));
    tor(&mut settings, top.section("tor"));
    admin(&mut settings, top.section("admin"));
    time(&mut settings, top.section("time"));
    mail(&mut settings, top.section("mail"));
    top.finish();
    let problems = reader::located(text, &found);
    if problems.is_empty() { Ok(settings) } else { Err(problems) }
}

/// Whether a text is TOML without any key: comments, as in the file that the image has for the owner.
pub(super) fn sets_nothing(text: &str) -> bool {
    DeTable::parse(text).is_ok_and(|table| table.get_ref().is_empty())
}

/// One problem per line: a wrong quotation mark makes the parser stumble several times.
fn syntax(text: &str, errors: &[toml::de::Error]) -> Vec<Problem> {
    let mut problems: Vec<Problem> = Vec::new();
    for error in errors {
        let mut problem = Problem::at(text, &error.span().unwrap_or_default(), error.message());
        let line = text.lines().nth(problem.line - 1).unwrap_or_default();
        if let Some(quote) = text::curly_quote(line) {
            problem.message = format!(
                "the quotation mark {quote} comes from a word processor; use the straight one (\") in a plain text \
                 editor"
            );
        }
        if problems.iter().all(|known| known.line != problem.line) {
            problems.push(problem);
        }
    }
    problems.sort_by_key(|problem| problem.line);
    problems
}

fn set<T>(place: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *place = value;
    }
}

fn owner(settings: &mut Settings, mut section: Reader<'_>) {
    let owner = &mut settings.owner;
    set(&mut owner.mailbox, section.text("mailbox", mailbox));
    set(&mut owner.ssh_keys, section.texts("ssh_keys", ssh_key));
    set(&mut owner.recovery_keys, section.texts("recovery_keys", recovery_key));
    section.finish();
}

fn mailbox(text: &str) -> Result<String, String> {
    let local: LocalPart =
        text.parse().map_err(|error: identity::mailbox::LocalPartError| error.to_string())?;
    if local.is_reserved() {
        return Err(format!("mail for {local} reaches the owner anyway; choose a name of your own"));
    }
    Ok(local.to_string())
}

fn ssh_key(text: &str) -> Result<String, String> {
    let key: OwnerKey = text.parse().map_err(|error: identity::ssh::OwnerKeyError| error.to_string())?;
    Ok(key.line())
}

fn recovery_key(text: &str) -> Result<String, String> {
    if text.starts_with("AGE-SECRET-KEY") {
        return Err("this is the SECRET key; give the public one, which begins with age1".into());
    }
    text.parse::<age::x25519::Recipient>()
        .map(|key| key.to_string())
        .map_err(|_| "this is not an age public key; it begins with age1 and has 62 characters".into())
}

fn network(settings: &mut Settings, mut section: Reader<'_>) {
    let (address, gateway) = fixed_address(&mut section);
    let network = &mut settings.network;
    // An address of the owner does not go with a router from the defaults.
    if address.is_some() || gateway.is_some() {
        *network = Network { address, gateway, wifi: network.wifi.take() };
    }
    if network.address.is_some() != network.gateway.is_some() {
        section.problem_with("address", "a fixed address needs both `address` and `gateway`");
    }
    if let Some(wifi) = wifi(section.section("wifi"), network.address.as_deref()) {
        network.wifi = Some(wifi);
    }
    section.finish();
}

/// `address` and `gateway`, each as far as it is right.
fn fixed_address(section: &mut Reader<'_>) -> (Option<String>, Option<Ipv4Addr>) {
    let address = section.text("address", |text| Ok((values::interface_address(text)?, text.to_owned())));
    let gateway = section.text("gateway", values::ipv4);
    if let (Some(((ip, prefix), _)), Some(gateway)) = (&address, gateway)
        && (!values::same_network(*ip, gateway, *prefix) || *ip == gateway)
    {
        section.problem_with("gateway", "the router must be another machine in the network of `address`");
    }
    (address.map(|(_, text)| text), gateway)
}

/// `cable`: the fixed address that the wired interfaces have.
fn wifi(mut section: Reader<'_>, cable: Option<&str>) -> Option<Wifi> {
    let there = section.is_there();
    let ssid = section.text("ssid", values::ssid);
    let passphrase = section.text("passphrase", |text| values::passphrase(text).map(Zeroizing::new));
    let country = section.text("country", values::country);
    let hidden = section.value("hidden", boolean);
    let (address, gateway) = fixed_address(&mut section);
    for key in ["ssid", "passphrase", "country"] {
        if there && !section.has(key) {
            section.problem_with(key, "it is missing; Wi-Fi needs `ssid`, `passphrase` and `country`");
        }
    }
    if section.has("address") != section.has("gateway") {
        section.problem_with("address", "a fixed address needs both `address` and `gateway`");
    }
    let without_prefix = |address: &str| address.split('/').next().map(str::to_owned);
    if address.is_some() && address.as_deref().and_then(without_prefix) == cable.and_then(without_prefix) {
        section.problem_with("address", "the cable has this address; give the radio another one");
    }
    section.finish();
    Some(Wifi {
        ssid: ssid?,
        passphrase: passphrase?,
        country: country?,
        hidden: hidden.unwrap_or_default(),
        address,
        gateway,
    })
}

fn tor(settings: &mut Settings, mut section: Reader<'_>) {
    let tor = &mut settings.tor;
    set(&mut tor.bridge_hosts, section.texts("bridge_hosts", bridges::host));
    if let Some(bridges) = section.texts("bridges", |text| bridges::bridge(text, &tor.bridge_hosts)) {
        tor.transports = bridges.iter().filter_map(|bridge| bridge.transport).collect();
        tor.transports.sort_unstable();
        tor.transports.dedup();
        tor.bridge_addresses = bridges.iter().flat_map(|bridge| bridge.connects.clone()).collect();
        tor.bridges = bridges.into_iter().map(|bridge| bridge.line).collect();
    }
    set(&mut tor.reachable_ports, section.list("reachable_ports", port));
    let prefix = section.text("vanity_prefix", |text| {
        let prefix = text.parse::<VanityPrefix>().map_err(|error| error.to_string())?;
        Ok(Some(prefix.to_string()))
    });
    set(&mut tor.vanity_prefix, prefix);
    let mut test_network = section.section("test_network");
    set(&mut tor.test_network.dir_authorities, test_network.texts("dir_authorities", values::dir_authority));
    test_network.finish();
    section.finish();
}

fn port(value: &DeValue<'_>) -> Result<u16, String> {
    integer(value, 1, 65535).and_then(|port| u16::try_from(port).map_err(|error| error.to_string()))
}

fn integer(value: &DeValue<'_>, least: u32, most: u32) -> Result<u32, String> {
    let range = || format!("this must be a whole number from {least} to {most}");
    let number =
        value.as_integer().ok_or_else(|| format!("this is {}; {}", reader::article(value), range()))?;
    u32::from_str_radix(number.as_str(), number.radix())
        .ok()
        .filter(|number| (least..=most).contains(number))
        .ok_or_else(range)
}

fn boolean(value: &DeValue<'_>) -> Result<bool, String> {
    value.as_bool().ok_or_else(|| format!("this is {}; write true or false", reader::article(value)))
}

fn admin(settings: &mut Settings, mut section: Reader<'_>) {
    set(&mut settings.admin.lan_networks, section.texts("lan_networks", values::network));
    section.finish();
}

fn time(settings: &mut Settings, mut section: Reader<'_>) {
    set(&mut settings.time.ntp, section.value("ntp", boolean));
    set(&mut settings.time.servers, section.texts("servers", values::ipv4));
    section.finish();
}

fn mail(settings: &mut Settings, mut section: Reader<'_>) {
    let mail = &mut settings.mail;
    set(&mut mail.message_size_mib, section.value("message_size_mib", |value| integer(value, 1, 200)));
    set(&mut mail.quota, section.text("quota", values::quota));
    let imap = section.text("imap", |text| match text {
        "onion" => Ok(Imap::Onion),
        "webmail-only" => Ok(Imap::WebmailOnly),
        _ => Err(format!("{text:?} is neither \"onion\" nor \"webmail-only\"")),
    });
    set(&mut mail.imap, imap);
    let transport = section.section("transport");
    set(
        &mut mail.transport,
        transport.entries(onion, |domain, text| {
            let other = onion(text)?;
            if onion(domain).is_ok_and(|domain| domain == other) {
                return Err("its mail goes there anyway; name another onion".into());
            }
            Ok(other)
        }),
    );
    section.finish();
}

fn onion(text: &str) -> Result<OnionAddress, String> {
    text.parse().map_err(|error: AddressError| error.to_string())
}
