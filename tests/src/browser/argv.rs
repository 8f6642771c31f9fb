//! Chromium's command line. Nothing here does anything.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::vantage::{Vantage, words};

/// The program inside the browser's tree. `/usr/bin` has only a shell script that starts it.
const PROGRAM: &str = "/usr/lib/chromium/chromium-headless-shell";

/// Chromium wants its two pipes as descriptors 3 and 4. They come in as stdin and stdout, which pass through every
/// wrapper, and are moved at the last moment.
const MOVE_PIPES: &str = "exec \"$@\" 3<&0 4>&1 </dev/null >&2";

/// Options that are always the same.
const OPTIONS: &[&str] = &[
    "--remote-debugging-pipe",
    // Chromium's own sandbox is made of namespaces and refuses to work for root, which we are in the space. The space
    // stands in for it: no host files, no other processes, and a network namespace that the test chose.
    "--no-sandbox",
    "--disable-gpu",
    "--hide-scrollbars",
    "--force-device-scale-factor=1",
    "--force-color-profile=srgb",
    "--lang=en-US",
    "--no-first-run",
    "--no-default-browser-check",
    "--password-store=basic",
    // No request of its own, and no reports.
    "--disable-background-networking",
    "--disable-breakpad",
    "--disable-client-side-phishing-detection",
    "--disable-component-update",
    "--disable-crash-reporter",
    "--disable-default-apps",
    "--disable-domain-reliability",
    "--disable-extensions",
    "--disable-features=AutofillServerCommunication,CertificateTransparencyComponentUpdater,MediaRouter,\
     NetworkTimeServiceQuerying,OptimizationHints,Translate",
    "--disable-quic",
    "--disable-sync",
    "--dns-prefetch-disable",
    "--metrics-recording-only",
    "--no-pings",
    // A tab in the background would be slowed down, and headless tabs sometimes count as such.
    "--disable-background-timer-throttling",
    "--disable-backgrounding-occluded-windows",
    "--disable-renderer-backgrounding",
];

/// A browser to start.
#[derive(Clone, Debug)]
pub struct Spec {
    /// The network namespace and the browser's tree.
    pub vantage: Vantage,
    /// Folder for profile, logs and screenshots. It has the same name inside the tree.
    pub folder: PathBuf,
    /// SOCKS 5 proxy (RFC 1928) for everything, names included; `None`: only loopback can be reached.
    pub proxy: Option<SocketAddr>,
    /// Width of the page in pixels.
    pub width: u32,
    /// Height of the page in pixels.
    pub height: u32,
}

/// The argument vector of a specification, without the vantage point.
#[must_use]
pub fn argv(spec: &Spec) -> Vec<OsString> {
    let mut line = words(["/bin/sh", "-c", MOVE_PIPES, "sh", PROGRAM]);
    line.extend(words(OPTIONS));
    line.push(option("--user-data-dir=", &profile(&spec.folder)));
    line.push(option("--log-net-log=", &net_log(&spec.folder)));
    line.push(format!("--window-size={},{}", spec.width, spec.height).into());
    // Names never go to a resolver, not even by a mistake of a page: the proxy gets them, or they do not exist.
    let mut rules = "MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE [::1]".to_owned();
    if let Some(proxy) = spec.proxy {
        let host = match proxy {
            SocketAddr::V4(address) => address.ip().to_string(),
            SocketAddr::V6(address) => format!("[{}]", address.ip()),
        };
        rules += &format!(", EXCLUDE {host}");
        line.push(format!("--proxy-server=socks5://{proxy}").into());
        // Loopback would otherwise be reached past the proxy.
        line.push("--proxy-bypass-list=<-loopback>".into());
    } else {
        line.push("--no-proxy-server".into());
    }
    line.push(format!("--host-resolver-rules={rules}").into());
    line
}

fn option(name: &str, path: &Path) -> OsString {
    let mut word = OsString::from(name);
    word.push(path);
    word
}

/// The browser's profile, which every start makes anew.
pub(super) fn profile(folder: &Path) -> PathBuf {
    folder.join("profile")
}

/// Chromium's network log, without cookies and passwords.
pub(super) fn net_log(folder: &Path) -> PathBuf {
    folder.join("net-log.json")
}

#[cfg(test)]
mod tests {
    use qemu::command_line;

    use super::*;

    fn line(proxy: Option<&str>) -> String {
        let proxy = proxy.map(|text| text.parse().unwrap());
        let vantage = Vantage::default();
        command_line(&argv(&Spec { vantage, folder: "/run/b".into(), proxy, width: 800, height: 600 }))
    }

    #[test]
    fn without_a_proxy_only_loopback_can_be_reached() {
        let line = line(None);
        assert!(line.contains("--no-proxy-server"), "{line}");
        assert!(line.contains("MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE [::1]'"), "{line}");
        assert!(line.contains("--window-size=800,600'") && line.contains("/run/b/profile"), "{line}");
        assert!(!line.contains("certificate-errors"), "{line}");
    }

    #[test]
    fn a_proxy_gets_everything() {
        let line = line(Some("10.1.0.1:9050"));
        assert!(line.contains("--proxy-server=socks5://10.1.0.1:9050"), "{line}");
        assert!(line.contains("'--proxy-bypass-list=<-loopback>'"), "{line}");
        assert!(line.contains(", EXCLUDE 10.1.0.1'"), "{line}");
    }
}
