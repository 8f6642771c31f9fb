//! Boots disk images in QEMU and talks to what boots: console, control socket, a root shell.
//!
//! A caller reads `spec → spawn → wait_for → run`:
//!
//! ```no_run
//! # use qemu::*;
//! # fn example(programs: &Programs) -> Result<(), Error> {
//! let probe = probe(programs, Arch::Amd64, "/tmp/probe".as_ref(), "/tmp/appliance.img".as_ref());
//! let mut spec = MachineSpec::new(Arch::Amd64, Firmware::Bios, probe.accel);
//! spec.disk = Some(Disk::overlay("/tmp/appliance.img", 6 << 30));
//! let mut machine = Machine::spawn(&spec, programs, RunDir::create("/tmp/run".as_ref())?, Keep::No)?;
//! machine.wait_for(guest::LOGIN_PROMPT, Deadline::seconds(600))?;
//! let answer = machine.run("uname -r", Deadline::seconds(60))?;
//! assert!(answer.status.success());
//! # Ok(()) }
//! ```
//!
//! The rooms: [`MachineSpec`] says what machine, [`argv()`] turns that into a command line without doing
//! anything, [`Machine`] runs it and owns the process, [`Console`], [`Qmp`] and [`Shell`] are its three lines
//! out. What is known about the guest is data, all of it in [`guest`]. A [`Lab`] is a private network for several
//! machines, with a private Tor network in it.
//!
//! Architecture invariants: this crate knows a disk file, never a recipe or a build. It never writes the disk
//! image it is given. Every wait takes a [`Deadline`]; nothing sleeps for a fixed time in the hope that the
//! guest is ready. No process outlives its [`Machine`], unless the caller asked to keep it.

mod accel;
mod arch;
mod argv;
mod console;
mod deadline;
mod disk;
mod error;
pub mod guest;
mod interactive;
mod lab;
mod lines;
mod machine;
mod patience;
mod process;
mod programs;
mod qmp;
mod run_dir;
mod shell;
mod spec;
mod text;
mod write_log;

pub use accel::{Accel, Probe, probe};
pub use arch::{Arch, Firmware};
pub use argv::argv;
pub use console::Console;
pub use deadline::Deadline;
pub use disk::copy_sparse;
pub use error::{Error, Result};
pub use interactive::{Attach, interactive};
pub use lab::{GATEWAY, Lab, Port, TimeServer, TorBridge, TorClient, TorNetwork};
pub use machine::{Keep, Machine};
pub use patience::{Stopwatch, slowness};
pub use process::dies_with_us;
pub use programs::{Programs, command_line};
pub use qmp::Qmp;
pub use run_dir::RunDir;
pub use shell::{Output, Shell, Status};
pub use spec::{Credential, Disk, MachineSpec, Nic, Serial};
pub use write_log::{Logged, Request, WriteLog};
