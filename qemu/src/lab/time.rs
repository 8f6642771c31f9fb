//! A time server for a lab (SNTP, RFC 4330), which machines can ask or find silent.

use std::ffi::OsString;
use std::process::Stdio;
use std::time::Duration;

use super::{GATEWAY, Lab};
use crate::process::Process;
use crate::{Deadline, Error, Result};

/// How long it may take to start.
const START: Duration = Duration::from_secs(60);

/// Answers every question with this computer's time, to the second. Perl, without modules of its full package, is part of
/// every Debian system.
/// Fields of the answer (RFC 4330, section 4): no leap second and the client's version, server; stratum 1, poll interval,
/// precision of a second; no delay, no dispersion, the name of the source; then when that was last right, the time in
/// the question, when it came, and when the answer went.
const SERVER: &str = r#"use strict; use warnings; use Socket;
socket(my $socket, PF_INET, SOCK_DGRAM, 0) or die "socket: $!";
bind($socket, sockaddr_in(123, inet_aton($ARGV[0]))) or die "bind: $!";
$| = 1; print "ready\n";
while (defined(my $from = recv($socket, my $question, 512, 0))) {
  next if length $question < 48;
  my @now = (time() + 2208988800, 2147483648);
  my $first = (ord($question) & 0x38) | 4;
  my $answer = pack "CCcc N N a4 N2 a8 N2 N2",
    $first, 1, 6, 0, 0, 0, "LOCL", @now, substr($question, 40, 8), @now, @now;
  send($socket, $answer, 0, $from);
}"#;

/// A running time server. It ends with this value (unless the lab is kept), and with its lab in any case.
pub struct TimeServer {
    _process: Process,
}

impl TimeServer {
    /// Starts it at [`GATEWAY`], which the lab's DHCP server names as time server, and waits until it answers.
    ///
    /// # Errors
    /// When it does not start, because there is one already, for example.
    pub fn start(lab: &Lab) -> Result<Self> {
        let log = lab.run_dir().file("time.log");
        let mut line = lab.programs().line("perl");
        line.extend(["-e".into(), SERVER.into(), OsString::from(GATEWAY.to_string())]);
        let mut process = Process::spawn("the time server", &line, Stdio::null(), &log)?;
        process.wait("the time server to start", Deadline::after(START), || {
            let text = fs_err::read_to_string(&log).map_err(Error::io("reading", &log))?;
            Ok(text.contains("ready").then_some(()))
        })?;
        process.keep(lab.keep);
        Ok(Self { _process: process })
    }
}
