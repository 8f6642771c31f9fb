//! Which slot boots. Pure; GRUB's script (`grub/grub.cfg`) does exactly this, and [`cases`] is the table that both
//! are held against.
//!
//! The confirmed slot boots, except that a pending trial gets one try. The try is recorded before it starts: if the
//! machine comes back without the system having confirmed, the next boot finds it used and returns to the confirmed
//! slot. A slot counts as bootable if kernel, both initramfs and `slot.cfg` are there and not empty.
//!
//! A block that cannot be read, or not be written when a trial is to be recorded, is damaged: the trial does not
//! start (it could repeat for ever), and GRUB leaves the block to the running system to mend.
//!
//! Never: a reset. With no bootable slot GRUB stays in its menu.

use std::fmt;

use super::grubenv::{Block, GrubEnv, Slot, Trial, TrialState};

/// What GRUB can see besides the block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Slot a is bootable.
    pub a: bool,
    /// Slot b is bootable.
    pub b: bool,
    /// The block can be written.
    pub writable: bool,
}

impl Facts {
    /// Whether the slot is bootable.
    pub const fn bootable(self, slot: Slot) -> bool {
        match slot {
            Slot::A => self.a,
            Slot::B => self.b,
        }
    }
}

/// Why a slot was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It is the confirmed one.
    Confirmed,
    /// It is tried.
    Trial,
    /// The trial before was not confirmed.
    TrialFailed,
    /// The slot that should have booted is not bootable.
    NoKernel(Slot),
    /// The environment block cannot be relied on.
    EnvDamaged,
}

/// What GRUB does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The slot that boots and why; `None`: stay in the menu.
    pub boot: Option<(Slot, Reason)>,
    /// What GRUB writes to the block; `None`: it leaves it as it is.
    pub write: Option<GrubEnv>,
}

/// The one line that GRUB prints.
impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.boot {
            None => f.write_str("cipolla: no bootable slot"),
            Some((slot, Reason::Confirmed)) => write!(f, "cipolla: slot {slot}"),
            Some((slot, Reason::Trial)) => write!(f, "cipolla: slot {slot} (trial)"),
            Some((slot, Reason::TrialFailed)) => write!(f, "cipolla: slot {slot} (fallback: trial failed)"),
            Some((slot, Reason::NoKernel(missing))) => {
                write!(f, "cipolla: slot {slot} (fallback: slot {missing} has no kernel)")
            }
            Some((slot, Reason::EnvDamaged)) => {
                write!(f, "cipolla: slot {slot} (fallback: environment block damaged)")
            }
        }
    }
}

/// Decides. See the module for the rules.
pub fn decide(block: Block, facts: Facts) -> Decision {
    let Block::Readable { env, tidy } = block else {
        let boot = Slot::ALL.into_iter().find(|slot| facts.bootable(*slot));
        return Decision { boot: boot.map(|slot| (slot, Reason::EnvDamaged)), write: None };
    };
    // A trial of the confirmed slot means nothing.
    let trial = env.trial.filter(|trial| trial.slot != env.slot);
    let mut reason = Reason::Confirmed;
    match trial {
        Some(Trial { slot, state: TrialState::Pending }) if facts.bootable(slot) => {
            if facts.writable {
                let used = Trial { slot, state: TrialState::Used };
                return Decision {
                    boot: Some((slot, Reason::Trial)),
                    write: Some(GrubEnv { trial: Some(used), ..env }),
                };
            }
            reason = Reason::EnvDamaged;
        }
        Some(Trial { slot, state: TrialState::Pending }) => reason = Reason::NoKernel(slot),
        Some(Trial { state: TrialState::Used, .. }) => reason = Reason::TrialFailed,
        None => {}
    }
    let boot = if facts.bootable(env.slot) {
        Some((env.slot, reason))
    } else if facts.bootable(env.slot.other()) {
        Some((env.slot.other(), Reason::NoKernel(env.slot)))
    } else {
        None
    };
    let clear = env.trial.is_some() || !tidy;
    let write = (clear && facts.writable).then_some(GrubEnv { slot: env.slot, trial: None });
    Decision { boot, write }
}

/// One row of the table of cases: what lies on the boot partition, and what GRUB must print and leave there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    /// In a few words.
    pub name: &'static str,
    /// The bytes of `grub/grubenv`; `None`: no such file.
    pub grubenv: Option<Vec<u8>>,
    /// Slot a's files are there.
    pub a: bool,
    /// Slot b's files are there.
    pub b: bool,
    /// Whether GRUB can write this block.
    pub writable: bool,
    /// The one line.
    pub line: &'static str,
    /// The block's variables afterwards; `None`: the file is unchanged to the byte.
    pub after: Option<GrubEnv>,
}

/// The table, for the tests of [`decide`] and for booting the real GRUB against it.
pub fn cases() -> Vec<Case> {
    let bytes = |text: &str| {
        let mut bytes = format!("# GRUB Environment Block\n{text}").into_bytes();
        bytes.resize(super::grubenv::LEN, b'#');
        Some(bytes)
    };
    let clear = |slot| Some(GrubEnv { slot, trial: None });
    let used =
        |slot, tried| Some(GrubEnv { slot, trial: Some(Trial { slot: tried, state: TrialState::Used }) });
    let shipped = bytes("slot=a\ntrial=\ntrial_state=\n");
    let pending_b = "slot=a\ntrial=b\ntrial_state=pending\n";
    let mut oversized = shipped.clone().unwrap_or_default();
    oversized.resize(2048, b'#');
    // GRUB writes only into a block that ends in `#` or a newline.
    let strange_end = format!("# GRUB Environment Block\n{pending_b}   ").into_bytes();
    let short = format!("# GRUB Environment Block\n{pending_b}").into_bytes();
    let row = |name, grubenv, (a, b), line, after| Case { name, grubenv, a, b, writable: true, line, after };
    let sealed =
        |name, grubenv, (a, b), line| Case { writable: false, ..row(name, grubenv, (a, b), line, None) };
    let (both, only_a, only_b, neither) = ((true, true), (true, false), (false, true), (false, false));

    const A: &str = "cipolla: slot a";
    const B: &str = "cipolla: slot b";
    const TRY_A: &str = "cipolla: slot a (trial)";
    const TRY_B: &str = "cipolla: slot b (trial)";
    const FAILED_A: &str = "cipolla: slot a (fallback: trial failed)";
    const FAILED_B: &str = "cipolla: slot b (fallback: trial failed)";
    const A_FOR_B: &str = "cipolla: slot a (fallback: slot b has no kernel)";
    const B_FOR_A: &str = "cipolla: slot b (fallback: slot a has no kernel)";
    const DAMAGED_A: &str = "cipolla: slot a (fallback: environment block damaged)";
    const DAMAGED_B: &str = "cipolla: slot b (fallback: environment block damaged)";
    const NONE: &str = "cipolla: no bootable slot";
    vec![
        row("as shipped", shipped.clone(), only_a, A, None),
        row("b confirmed", bytes("slot=b\ntrial=\ntrial_state=\n"), both, B, None),
        row("b to be tried", bytes(pending_b), both, TRY_B, used(Slot::A, Slot::B)),
        row(
            "a to be tried",
            bytes("slot=b\ntrial=a\ntrial_state=pending\n"),
            both,
            TRY_A,
            used(Slot::B, Slot::A),
        ),
        row("b to be tried, a gone", bytes(pending_b), only_b, TRY_B, used(Slot::A, Slot::B)),
        row("b to be tried, but gone", bytes(pending_b), only_a, A_FOR_B, clear(Slot::A)),
        row(
            "b tried, not confirmed",
            bytes("slot=a\ntrial=b\ntrial_state=used\n"),
            both,
            FAILED_A,
            clear(Slot::A),
        ),
        row(
            "a tried, not confirmed",
            bytes("slot=b\ntrial=a\ntrial_state=used\n"),
            both,
            FAILED_B,
            clear(Slot::B),
        ),
        row("b tried, a gone", bytes("slot=a\ntrial=b\ntrial_state=used\n"), only_b, B_FOR_A, clear(Slot::A)),
        row(
            "trial of the confirmed slot",
            bytes("slot=a\ntrial=a\ntrial_state=pending\n"),
            both,
            A,
            clear(Slot::A),
        ),
        row("a confirmed, but gone", shipped.clone(), only_b, B_FOR_A, None),
        row("b confirmed, but gone", bytes("slot=b\ntrial=\ntrial_state=\n"), only_a, A_FOR_B, None),
        row("both gone", shipped.clone(), neither, NONE, None),
        row("both gone, trial pending", bytes(pending_b), neither, NONE, clear(Slot::A)),
        row("unknown trial", bytes("slot=a\ntrial=c\ntrial_state=pending\n"), both, A, clear(Slot::A)),
        row("unknown trial state", bytes("slot=a\ntrial=b\ntrial_state=soon\n"), both, A, clear(Slot::A)),
        row("trial without state", bytes("slot=b\ntrial=a\ntrial_state=\n"), both, B, clear(Slot::B)),
        row("unknown slot", bytes("slot=c\ntrial=b\ntrial_state=pending\n"), both, DAMAGED_A, None),
        row("block without variables", bytes(""), both, DAMAGED_A, None),
        row(
            "slot with spaces and a quote",
            bytes("slot=a b '\ntrial=\ntrial_state=\n"),
            both,
            DAMAGED_A,
            None,
        ),
        row("block cut behind its variables", Some(short), both, TRY_B, used(Slot::A, Slot::B)),
        row("oversized block", Some(oversized), both, A, None),
        row("variables in another order", bytes("trial_state=\nx=1\ntrial=\nslot=b\n"), both, B, None),
        sealed("no block", None, both, DAMAGED_A),
        sealed("empty block", Some(Vec::new()), both, DAMAGED_A),
        sealed("zeros", Some(vec![0; 1024]), both, DAMAGED_A),
        sealed("garbage", Some((0..1024u32).map(|i| (i * 37 % 251) as u8).collect()), both, DAMAGED_A),
        sealed("garbage, a gone", Some(vec![0xff; 1024]), only_b, DAMAGED_B),
        sealed("garbage, both gone", Some(vec![0xff; 1024]), neither, NONE),
        sealed("cut in the header", Some(b"# GRUB Environ".to_vec()), both, DAMAGED_A),
        sealed("no way to record the trial", Some(strange_end), both, DAMAGED_A),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_cases() {
        for case in cases() {
            let block = Block::parse(case.grubenv.as_deref().unwrap_or_default());
            let decision = decide(block, Facts { a: case.a, b: case.b, writable: case.writable });
            assert_eq!(decision.to_string(), case.line, "{}", case.name);
            assert_eq!(decision.write, case.after, "{}", case.name);
        }
    }

    /// Every readable state with every set of facts.
    fn all() -> impl Iterator<Item = (GrubEnv, Facts)> {
        let bools = [false, true];
        let states = [TrialState::Pending, TrialState::Used];
        let trials =
            Slot::ALL.into_iter().flat_map(move |slot| states.map(|state| Some(Trial { slot, state })));
        let trials: Vec<_> = trials.chain([None]).collect();
        let envs = Slot::ALL
            .into_iter()
            .flat_map(move |slot| trials.clone().into_iter().map(move |trial| GrubEnv { slot, trial }));
        envs.flat_map(move |env| {
            bools.into_iter().flat_map(move |a| {
                bools.into_iter().flat_map(move |b| bools.map(|writable| (env, Facts { a, b, writable })))
            })
        })
    }

    #[test]
    fn an_unconfirmed_trial_starts_at_most_once() {
        for (env, facts) in all() {
            let mut env = env;
            let mut tries = 0;
            for _ in 0..5 {
                let decision = decide(Block::Readable { env, tidy: true }, facts);
                tries += i32::from(matches!(decision.boot, Some((_, Reason::Trial))));
                env = decision.write.unwrap_or(env);
            }
            assert!(tries <= 1, "{env:?} {facts:?}");
        }
    }

    #[test]
    fn whatever_is_bootable_boots_and_nothing_else() {
        for (env, facts) in all() {
            let decision = decide(Block::Readable { env, tidy: true }, facts);
            assert_eq!(decision.boot.is_some(), facts.a || facts.b, "{env:?} {facts:?}");
            if let Some((slot, _)) = decision.boot {
                assert!(facts.bootable(slot), "{env:?} {facts:?}");
            }
            assert!(decision.write.is_none() || facts.writable, "{env:?} {facts:?}");
        }
    }

    #[test]
    fn the_confirmed_slot_never_changes_here() {
        for (env, facts) in all() {
            let decision = decide(Block::Readable { env, tidy: true }, facts);
            assert!(decision.write.is_none_or(|after| after.slot == env.slot), "{env:?} {facts:?}");
        }
    }
}
