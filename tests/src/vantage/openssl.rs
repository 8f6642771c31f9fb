//! Whether a TLS port agrees to one version, by `openssl s_client`.
//!
//! Source: openssl-s_client(1). The client offers that version only, with every cipher that it knows and without any
//! of its own scruples, so that it is the server who refuses.

use std::ffi::OsString;
use std::net::SocketAddr;

use super::words;

/// Lets OpenSSL speak what its own security level would not.
pub(crate) const EVERY_CIPHER: [&str; 2] = ["-cipher", "ALL:@SECLEVEL=0"];

/// The command that offers one version (`-tls1_2`) to a port. `name` is what the server is called in SNI, `starttls` a
/// protocol such as `smtp`; `None`: TLS from the first byte.
#[must_use]
pub fn argv(address: SocketAddr, name: &str, version: &str, starttls: Option<&str>) -> Vec<OsString> {
    let mut line =
        words(["openssl", "s_client", "-connect", &address.to_string(), "-servername", name, version]);
    line.extend(words(EVERY_CIPHER));
    line.push("-brief".into());
    if let Some(protocol) = starttls {
        line.extend(words(["-starttls", protocol]));
    }
    line
}

/// Whether both agreed, from what the client wrote to stderr.
#[must_use]
pub fn agreed(stderr: &str) -> bool {
    stderr.contains("CONNECTION ESTABLISHED")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_version_and_every_cipher() {
        let line = argv("10.1.0.2:25".parse().unwrap(), "a.onion", "-tls1", Some("smtp"));
        assert_eq!(
            qemu::command_line(&line),
            "openssl s_client -connect 10.1.0.2:25 -servername a.onion -tls1 -cipher 'ALL:@SECLEVEL=0' -brief \
             -starttls smtp"
        );
    }
}
