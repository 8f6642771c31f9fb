//! Signals, in a process of their own: what one sets is set for the whole process.

use build::exec::{Interrupted, catch_signals, exit_on_signals, interrupted};
use signal_hook::consts::SIGTERM;
use signal_hook::low_level::raise;

/// A signal that comes while nobody asks for it is not lost by the step to work that a signal would end at once.
#[test]
fn early_signal_stops_what_comes_later() {
    catch_signals().unwrap();
    interrupted().unwrap();
    raise(SIGTERM).unwrap();
    interrupted().unwrap_err();
    assert!(exit_on_signals().unwrap_err().is::<Interrupted>());
}
