//! The webmail's door, by plain HTTP through Tor: what is said before the password, and what is never said.

use std::io::{Read as _, Write as _};

use clients::{Channel, Page};

use super::State;
use crate::check::{Check, Verdict, check, none_of};

/// Paths that answer like any other before the password.
const ANY: [&str; 12] = [
    "/",
    "/index.php",
    "//index.php",
    "/%69ndex.php",
    "/?_task=mail",
    "/skins/elastic/styles/styles.min.css",
    "/config/config.inc.php",
    "/.htaccess",
    "/x.php",
    "/INDEX.PHP",
    "/index.php/x",
    "/program/js/app.min.js",
];

/// Paths that nobody gets, with the password neither.
const NEVER: [&str; 16] = [
    "/config/config.inc.php",
    "/config/",
    "/.htaccess",
    "/.git/config",
    "/temp/",
    "/logs/errors.log",
    "/db/roundcube.db",
    "/SQL/sqlite.initial.sql",
    "/bin/update.sh",
    "/installer/",
    "/vendor/",
    "/program/lib/Roundcube/rcube.php",
    "/program/include/iniset.php",
    "/plugins/password/config.inc.php",
    "/plugins/password/password.php",
    "/composer.json",
];

pub(super) fn checks() -> Vec<Check<State>> {
    vec![
        check("index_php_needs_basic_auth", &["R14", "R18"], needs_basic_auth),
        check("dot_data_config_temp_denied", &["R15"], never_served),
        check("wrong_host_444", &["R13"], wrong_host),
        check("headers_strict", &["R18"], headers_strict),
    ]
}

/// A connection to the web server.
fn connect(state: &State) -> anyhow::Result<Channel> {
    let site = state.site()?;
    let deadline = qemu::Deadline::seconds(crate::site::DIALOGUE);
    site.door.connect("browser", &site.client, 80, deadline)
}

fn get(state: &State, host: &str, path: &str, with_password: bool) -> anyhow::Result<Page> {
    let login = with_password.then_some(("ada", state.site()?.web.as_str()));
    clients::get(connect(state)?, host, path, login)
}

fn needs_basic_auth(state: &mut State) -> Verdict {
    let host = state.site()?.client.clone();
    let mut findings = Vec::new();
    for path in ANY {
        let page = get(state, &host, path, false)?;
        let said = format!("{:?}{}", page.headers, String::from_utf8_lossy(&page.body)).to_lowercase();
        if page.status != 401 || !page.body.is_empty() {
            findings.push(format!("{path}: {} and {} bytes", page.status, page.body.len()));
        }
        let words = ["nginx", "php", "roundcube", "webmail", "debian", "cipolla"];
        findings.extend(words.iter().filter(|w| said.contains(**w)).map(|w| format!("{path} tells {w:?}")));
    }
    let page = get(state, &host, "/", true)?;
    if page.status != 200 || !String::from_utf8_lossy(&page.body).contains("rcmloginuser") {
        findings.push(format!("with the password: {}", page.status));
    }
    none_of(&findings)
}

fn never_served(state: &mut State) -> Verdict {
    let host = state.site()?.client.clone();
    let mut findings = Vec::new();
    for path in NEVER {
        let page = get(state, &host, path, true)?;
        if page.status != 404 {
            findings.push(format!("{path}: {}", page.status));
        }
    }
    none_of(&findings)
}

/// Whoever asks for another name, or for none, is connected and hears not one byte.
fn wrong_host(state: &mut State) -> Verdict {
    let site = state.site()?;
    let right = format!("Host: {}\r\n", site.client);
    let wrong = ["Host: example.com\r\n".to_owned(), format!("Host: {}\r\n", site.mx)];
    let wrong = wrong.into_iter().chain(["Host: 127.0.0.1\r\n".to_owned(), String::new()]);
    let mut findings = Vec::new();
    for (host, answered) in wrong.map(|host| (host, false)).chain([(right, true)]) {
        let mut channel = connect(state)?;
        channel.write_all(format!("GET / HTTP/1.0\r\n{host}\r\n").as_bytes())?;
        let mut answer = Vec::new();
        channel.read_to_end(&mut answer)?;
        if answer.is_empty() == answered {
            findings.push(format!("{host:?} is answered with {:?}", String::from_utf8_lossy(&answer)));
        }
    }
    none_of(&findings)
}

fn headers_strict(state: &mut State) -> Verdict {
    let host = state.site()?.client.clone();
    let page = get(state, &host, "/", true)?;
    let mut findings = Vec::new();
    for (name, part) in [
        ("content-security-policy", "default-src 'none'"),
        ("referrer-policy", "no-referrer"),
        ("x-content-type-options", "nosniff"),
        ("x-frame-options", "SAMEORIGIN"),
        ("cache-control", "no-store"),
        ("permissions-policy", "camera=()"),
        ("cross-origin-opener-policy", "same-origin"),
    ] {
        if !page.header(name).is_some_and(|value| value.contains(part)) {
            findings.push(format!("{name} is {:?}", page.header(name)));
        }
    }
    findings.extend(page.header("server").map(|value| format!("server is {value}")));
    findings.extend(page.header("x-powered-by").map(|value| format!("x-powered-by is {value}")));
    none_of(&findings)
}
