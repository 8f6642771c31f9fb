//! Settings as owners write them: what is accepted, and what is said about the rest.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

use agent::settings::{self, Imap, Problems, Settings, Transport};

/// Two addresses that could be of onion services.
const ONION: &str = "fa4ihb4fp3vmfksp4qhv5hurrjofv4cmfuwjh6f6qlgculvns274vdid.onion";
const OTHER: &str = "lbtgmztgmztgmztgmztgmztgmztgmztgmztgmztgmztgmztgmztmn5ad.onion";

fn report(text: &str) -> String {
    let problems = settings::read(Settings::default(), text).unwrap_err();
    Problems { source: "cipolla.toml".into(), problems }.to_string()
}

#[test]
fn everything_can_be_left_out() {
    assert_eq!(settings::read(Settings::default(), "# nothing\n").unwrap(), Settings::default());
}

#[test]
fn a_full_file_is_read() {
    let text = r#"
[owner]
mailbox = "ada"
ssh_keys = ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGPKSUTyz1HwHReFVvD5obVsALAgJRNarH4TRpNePnAS ada@laptop"]
recovery_keys = ["age1zvkyg2lqzraa2lnjvqej32nkuu0ues2s82hzrye869xeexvn73equnujwj"]
[network]
address = "192.0.2.10/24"
gateway = "192.0.2.1"
[tor]
bridges = ["obfs4 192.0.2.7:443 0123456789ABCDEF0123456789ABCDEF01234567 cert=abc iat-mode=0"]
reachable_ports = [80, 443]
vanity_prefix = "ada"
[admin]
lan_networks = ["192.168.1.0/24"]
[time]
ntp = true
servers = ["192.0.2.1"]
[mail]
message_size_mib = 50
quota = "500M"
imap = "webmail-only"
[mail.transport]
"fa4ihb4fp3vmfksp4qhv5hurrjofv4cmfuwjh6f6qlgculvns274vdid.onion" = "lbtgmztgmztgmztgmztgmztgmztgmztgmztgmztgmztgmztgmztmn5ad.onion"
"#;
    let settings = settings::read(Settings::default(), text).unwrap();
    assert_eq!(settings.owner.mailbox, "ada");
    assert_eq!(settings.tor.bridge_addresses[0].port, 443);
    assert_eq!(settings.tor.reachable_ports, [80, 443]);
    assert_eq!(settings.mail.imap, Imap::WebmailOnly);
    assert!(settings.time.ntp);
    let ways: Vec<_> = settings.mail.transport.iter().map(|(from, to)| format!("{from} {to}")).collect();
    assert_eq!(ways, [format!("{ONION} {OTHER}")]);
}

#[test]
fn crlf_is_fine() {
    assert!(settings::read(Settings::default(), "[mail]\r\nquota = \"1G\"\r\n").is_ok());
}

#[test]
fn all_problems_come_at_once_each_with_its_place() {
    let text = "[owner]\nmailbox = \"postmaster\"\nmailbx = 1\n[mail]\nquota = 5\nmessage_size_mib = 5000\n\
                [admin]\nlan_networks = [\"192.168.1.5/24\", \"10.0.0.0/8\", \"x\"]\n[tor]\nreachable_ports = [0]\n";
    insta::assert_snapshot!(report(text));
}

#[test]
fn typographic_quotes_are_named() {
    insta::assert_snapshot!(report(
        "[owner]\nmailbox = \u{201c}ada\u{201d}\n\n[mail]\nquota = \u{201e}1G\u{201c}\n"
    ));
}

#[test]
fn a_typographic_quote_inside_a_text_is_a_character_like_others() {
    let text = "[network.wifi]\nssid = \"Ada\u{2019}s\"\npassphrase = \"correct horse\"\ncountry = \"DE\"\n";
    assert!(settings::read(Settings::default(), text).is_ok());
}

#[test]
fn the_wifi_passphrase_is_never_quoted() {
    let text = "[network.wifi]\nssid = \"home\"\npassphrase = \"s\\\\cret\\\"\"\n";
    let report = report(text);
    assert!(!report.contains("s\\cret"), "{report}");
    insta::assert_snapshot!(report);
}

#[test]
fn a_fixed_address_needs_its_router() {
    insta::assert_snapshot!(report("[network]\naddress = \"192.0.2.10/24\"\n"));
}

/// A wireless network that is right but for what is added to it.
fn wifi(cable: &str, more: &str) -> String {
    format!(
        "{cable}[network.wifi]\nssid = \"home\"\npassphrase = \"correct horse\"\ncountry = \"DE\"\n{more}\n"
    )
}

#[test]
fn cable_and_radio_have_an_address_each() {
    let cable = "[network]\naddress = \"192.0.2.10/24\"\ngateway = \"192.0.2.1\"\n";
    let radio = "hidden = true\naddress = \"192.0.2.11/24\"\ngateway = \"192.0.2.1\"";
    let network = settings::read(Settings::default(), &wifi(cable, radio)).unwrap().network;
    let wifi_settings = network.wifi.unwrap();
    assert_eq!(network.address.as_deref(), Some("192.0.2.10/24"));
    assert_eq!(wifi_settings.address.as_deref(), Some("192.0.2.11/24"));
    assert_eq!(wifi_settings.gateway, network.gateway);
    assert!(wifi_settings.hidden);
    insta::assert_snapshot!(report(&wifi(cable, "address = \"192.0.2.10/24\"\ngateway = \"192.0.2.1\"")));
    insta::assert_snapshot!(report(&wifi("", "hidden = \"yes\"\ngateway = \"192.0.2.1\"")));
}

#[test]
fn the_router_is_another_machine_of_the_same_network() {
    insta::assert_snapshot!(report("[network]\naddress = \"192.0.2.10/24\"\ngateway = \"198.51.100.1\"\n"));
}

#[test]
fn a_secret_key_in_place_of_a_public_one_is_recognised() {
    let text = "[owner]\nrecovery_keys = [\"AGE-SECRET-KEY-1QQQ\"]\n";
    assert!(report(text).contains("SECRET"));
}

#[test]
fn every_wrong_bridge_is_named() {
    let print = "0123456789ABCDEF0123456789ABCDEF01234567";
    let snowflake = format!("snowflake 192.0.2.3:80 {print} url=https://broker.example/");
    let text = format!(
        "[tor]\nbridges = [\n\"meek 192.0.2.7:443 {print}\",\n\"obfs4 192.0.2.7 {print}\",\n\
         \"{snowflake} front=front.example ice=stun:192.0.2.30:3478\",\n\
         \"{snowflake} front=known.example ice=stun:stun.example:3478\",\n\
         \"{snowflake} fronts=a.example,b.example ice=stun:192.0.2.30:3478\",\n\
         \"192.0.2.7:443 {print}\",\n]\n\
         bridge_hosts = [\"192.0.2.10 known.example\", \"front.example\"]\n"
    );
    insta::assert_snapshot!(report(&text));
}

#[test]
fn bridges_say_what_has_to_be_reached() {
    let print = "0123456789ABCDEF0123456789ABCDEF01234567";
    let text = format!(
        "[tor]\nbridge_hosts = [\"192.0.2.10 front.example\"]\nbridges = [\"192.0.2.8:9001 {print}\", \
         \"snowflake 192.0.2.3:80 {print} url=https://broker.example/ front=front.example ice=stun:192.0.2.30:3478\", \
         \"obfs4 192.0.2.7:443 {print} cert=abc iat-mode=0\", \"obfs4 192.0.2.9:443 {print} cert=abc\"]\n"
    );
    let tor = settings::read(Settings::default(), &text).unwrap().tor;
    assert_eq!(tor.transports, [Transport::Obfs4, Transport::Snowflake]);
    let addresses: Vec<_> = tor.bridge_addresses.iter().map(|to| format!("{}:{}", to.ip, to.port)).collect();
    assert_eq!(addresses, ["192.0.2.8:9001", "192.0.2.10:443", "192.0.2.7:443", "192.0.2.9:443"]);
    assert_eq!(tor.bridges.len(), 4);
}

/// Settings reach configuration files unquoted.
#[test]
fn no_setting_takes_what_means_something_in_a_configuration_file() {
    let settings = [
        ("owner", "mailbox", "ada", false),
        ("owner", "recovery_keys", "age1zvkyg2lqzraa2lnjvqej32nkuu0ues2s82hzrye869xeexvn73equnujwj", true),
        ("network", "address", "192.0.2.10/24", false),
        ("network", "gateway", "192.0.2.1", false),
        ("tor", "bridges", "obfs4 192.0.2.7:443 0123456789ABCDEF0123456789ABCDEF01234567 cert=abc", true),
        ("tor", "bridge_hosts", "192.0.2.10 front.example", true),
        ("tor", "vanity_prefix", "ada", false),
        (
            "tor.test_network",
            "dir_authorities",
            "test orport=5000 v3ident=14C131DFC5C6F93646BE72FA1401C02A8DF2E8B4 10.99.0.1:7000 9D2A",
            true,
        ),
        ("admin", "lan_networks", "192.168.7.0/24", true),
        ("time", "servers", "192.0.2.123", true),
        ("mail", "quota", "2G", false),
        ("mail", "imap", "onion", false),
        ("network.wifi", "country", "DE", false),
        ("network.wifi", "address", "192.0.2.10/24", false),
        ("network.wifi", "gateway", "192.0.2.1", false),
    ];
    for (section, key, good, list) in settings {
        let read = |value: &str| {
            let value = toml::Value::from(value).to_string();
            let value = if list { format!("[{value}]") } else { value };
            let partner = match key {
                "address" => "gateway = \"192.0.2.1\"\n",
                "gateway" => "address = \"192.0.2.10/24\"\n",
                _ => "",
            };
            let others = match (section, key) {
                ("network.wifi", "country") => "ssid = \"home\"\npassphrase = \"correct horse\"\n",
                ("network.wifi", _) => "ssid = \"home\"\npassphrase = \"correct horse\"\ncountry = \"DE\"\n",
                _ => "",
            };
            settings::read(Settings::default(), &format!("[{section}]\n{others}{partner}{key} = {value}\n"))
        };
        assert!(read(good).is_ok(), "{key}: {good} is fine: {:?}", read(good));
        for special in ["\n", "\r", "\t", "\u{7f}", "é", ";", "\"", "'", "`", "{", "}", "$", "\\", "#"] {
            for wrong in
                [format!("{good}{special}"), format!("{special}{good}"), format!("{good} {special} x")]
            {
                let problems = read(&wrong).expect_err(&format!("{key}: {wrong:?} was accepted"));
                assert!(problems.iter().any(|problem| problem.message.starts_with(&format!("`{key}`"))));
            }
        }
    }
}

#[test]
fn every_wrong_way_for_a_domain_is_named() {
    let typo = OTHER.replace("lbt", "lbu");
    insta::assert_snapshot!(report(&format!(
        "[mail.transport]\n\"example.com\" = \"{OTHER}\"\n\"{ONION}\" = \"{typo}\"\n\
         \"{}\" = \"[{OTHER}]:25\"\n\"{OTHER}\" = \"{OTHER}\"\nabc.onion = \"{OTHER}\"\n\
         \"mail.{ONION}\" = 25\n\"{}\" = \"{ONION}\"\n",
        ONION.to_uppercase(),
        OTHER.to_uppercase(),
    )));
    insta::assert_snapshot!(report(&format!("[mail]\ntransport = \"{OTHER}\"\n")));
}

#[test]
fn a_way_for_a_domain_is_an_address_and_nothing_else() {
    let read = |from: &str, to: &str| {
        let text = toml::to_string(&toml::Table::from_iter([(from.to_owned(), to.into())])).unwrap();
        settings::read(Settings::default(), &format!("[mail.transport]\n{text}"))
    };
    let settings = read(&ONION.to_uppercase(), OTHER).unwrap();
    let shown = toml::to_string_pretty(&settings).unwrap();
    assert!(shown.contains(&format!("[mail.transport]\n\"{ONION}\" = \"{OTHER}\"\n")), "{shown}");
    for special in ["\n", "\r", "\t", " ", "/", ";", "\"", "'", "{", "}", "$", "\\", "#", ":25", "[", "é"] {
        for wrong in [format!("{ONION}{special}"), format!("{special}{ONION}")] {
            assert!(read(&wrong, OTHER).is_err(), "{wrong:?} as a domain");
            assert!(read(OTHER, &wrong).is_err(), "{wrong:?} as another onion");
        }
    }
}
