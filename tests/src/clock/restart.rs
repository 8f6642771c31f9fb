//! A start after the power and the hardware clock are gone, with a firewall that fails: nothing of that start needs a
//! network, so one start shows both.

use super::{DAY, EXACT, HOUR, ONION, State, changed, clocks, now};
use crate::check::{Check, Verdict, check, fail, none_of};
use crate::first_boot::identity;
use crate::outside::try_to_leak;

/// What the start is compared with.
pub(super) struct Before {
    /// The time that was saved last.
    saved: u64,
    /// How many packets the card had seen.
    packets: usize,
}

pub(super) fn checks() -> Vec<Check<State>> {
    vec![
        check("clock_never_goes_back_over_a_restart", &["R22", "R49"], never_goes_back),
        check("no_interface_without_firewall", &["R1"], no_interface_without_firewall),
    ]
}

/// Sets the hardware clock to the epoch: `RTC_SET_TIME` with a `struct rtc_time` (`rtc(4)`).
const EMPTY_BATTERY: &str = "python3 -c \"import fcntl, struct; \
    fcntl.ioctl(open('/dev/rtc0'), 0x4024700a, struct.pack('9i', 0, 0, 0, 1, 0, 70, 4, 0, 0))\"";

/// A firewall unit that fails; until the power goes, no card sends anything.
const BREAK_FIREWALL: &str = "folder=/etc/systemd/system/nftables.service.d && mkdir -p $folder && \
    printf '[Service]\\nExecStart=\\nExecStart=/usr/bin/false\\n' >$folder/broken.conf && \
    systemctl stop tor@default.service systemd-networkd.service systemd-networkd.socket && \
    for card in /sys/class/net/e*; do ip link set ${card##*/} down; done";

/// The time is saved, the firewall broken, and the power goes, and with it the hardware clock.
pub(super) fn restart(state: &mut State) -> anyhow::Result<()> {
    // It is saved once a minute (SaveIntervalSec).
    let script = format!(
        "for n in $(seq {ONION}); do s=$(stat -c %Y /var/lib/systemd/timesync/clock); d=$(($(date +%s) - s)); \
         [ $d -ge 0 ] && [ $d -le {} ] && break; sleep 1; done; {BREAK_FIREWALL}; sync; {EMPTY_BATTERY} && echo $s",
        2 * EXACT
    );
    let appliance = &mut state.resident.appliance;
    let saved = appliance.read(&script)?.trim().parse()?;
    state.identity = identity(appliance)?;
    let packets = state.resident.packets()?;
    state.before = Some(Before { saved, packets });
    state.resident.appliance.hard_reset()
}

/// The start begins at the time that was saved last.
fn never_goes_back(state: &mut State) -> Verdict {
    let Some(Before { saved, .. }) = state.before else { anyhow::bail!("the machine was not restarted") };
    let appliance = &mut state.resident.appliance;
    let [hardware, _, guest] = clocks(appliance)?;
    let mut findings = changed(appliance, &state.identity)?;
    if hardware > DAY || saved.abs_diff(now()?) > HOUR {
        return fail(format!(
            "the hardware clock says {hardware}, the saved time was {saved}: nothing is shown"
        ));
    }
    // What this start did first.
    let script = "journalctl -b -u cipolla-boot -o short-unix --no-hostname | sed -n 's/^\\([0-9]*\\)\\..*/\\1/p' | head -n 1";
    let first: u64 = appliance.read(script)?.trim().parse()?;
    for (what, at) in [("the clock says", guest), ("the start was prepared at", first)] {
        if at < saved {
            findings.push(format!("{what} {at}, {} s before the time that was saved", saved - at));
        }
    }
    none_of(&findings)
}

/// The firewall's unit fails: no card is up, neither the network manager nor Tor runs, and not one packet leaves, not even
/// for root with the card up by hand.
fn no_interface_without_firewall(state: &mut State) -> Verdict {
    let Some(before) = &state.before else { anyhow::bail!("the machine was not restarted") };
    let script = "systemctl is-failed nftables.service; systemctl is-active systemd-networkd tor@default; \
        for card in /sys/class/net/e*; do echo $(cat $card/operstate) $(($(cat $card/flags) & 1)); done; \
        nft list ruleset | grep -c 'policy drop'";
    let seen = state.resident.appliance.run(script)?.stdout;
    let mut findings = Vec::new();
    let wanted = ["failed", "inactive", "inactive", "down 0", "3"];
    if !seen.lines().eq(wanted) {
        findings.push(format!("the appliance says {seen:?}, not {wanted:?}"));
    }
    let address = state.resident.address();
    let up = format!(
        "for card in /sys/class/net/e*; do ip address add {address}/24 dev ${{card##*/}}; \
         ip link set ${{card##*/}} up; done; sleep 1; {}",
        try_to_leak()
    );
    state.resident.appliance.run(&up)?;
    let tally = state.world.judge_after(&state.resident, before.packets)?;
    if tally.dhcp + tally.arp + tally.tor > 0 {
        findings.push(format!("{} of DHCP, {} of ARP, {} to relays", tally.dhcp, tally.arp, tally.tor));
    }
    findings.extend(tally.findings);
    none_of(&findings)
}
