//! The lab's DHCP server: dnsmasq, with a fixed address for every card.

use std::ffi::OsString;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use super::{BRIDGE, GATEWAY, MACHINES, address, mac};
use crate::process::Process;
use crate::{Deadline, Error, Keep, Programs, Result, RunDir};

/// How long dnsmasq may take to start.
const START: Duration = Duration::from_secs(60);

/// Starts the server and waits until it answers.
pub(super) fn start(programs: &Programs, run_dir: &RunDir, keep: Keep) -> Result<Process> {
    let (file, pid) = (run_dir.file("dnsmasq.conf"), run_dir.file("dnsmasq.pid"));
    // The sign of an earlier run.
    let _ = fs_err::remove_file(&pid);
    let text = config(&run_dir.file("dnsmasq.leases"), &pid);
    fs_err::write(&file, text).map_err(Error::io("writing", &file))?;
    let mut line = programs.line("dnsmasq");
    let mut option = OsString::from("--conf-file=");
    option.push(&file);
    line.extend(["--keep-in-foreground".into(), option]);
    let log = run_dir.file("dnsmasq.log");
    let mut dhcp = Process::spawn("the DHCP server", &line, Stdio::null(), &log)?;
    dhcp.wait("the DHCP server to start", Deadline::after(START), || Ok(pid.exists().then_some(())))?;
    dhcp.keep(keep);
    Ok(dhcp)
}

/// dnsmasq(8). It answers no name; that machines are sent to it for names is what makes their questions visible.
fn config(leases: &Path, pid: &Path) -> String {
    let mut text = format!(
        "port=0\n\
         interface={BRIDGE}\n\
         bind-interfaces\n\
         user=root\n\
         group=root\n\
         dhcp-authoritative\n\
         no-ping\n\
         dhcp-range={first},{last},255.255.255.0,1h\n\
         dhcp-option=option:router,{GATEWAY}\n\
         dhcp-option=option:dns-server,{GATEWAY}\n\
         dhcp-option=option:ntp-server,{GATEWAY}\n\
         dhcp-leasefile={leases}\n\
         pid-file={pid}\n\
         log-dhcp\n\
         log-facility=-\n",
        first = address(1),
        last = address(MACHINES),
        leases = leases.display(),
        pid = pid.display(),
    );
    text.extend((1..=MACHINES).map(|number| format!("dhcp-host={},{}\n", mac(number), address(number))));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_card_has_its_address() {
        let text = config(Path::new("/run/leases"), Path::new("/run/pid"));
        assert!(text.contains("\ndhcp-host=52:54:00:77:00:01,10.77.0.101\n"), "{text}");
        assert!(text.ends_with("\ndhcp-host=52:54:00:77:00:32,10.77.0.150\n"), "{text}");
        assert!(text.contains("\ndhcp-range=10.77.0.101,10.77.0.150,255.255.255.0,1h\n"), "{text}");
    }
}
