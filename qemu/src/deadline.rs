//! A point in time after which waiting is a failure.

use std::sync::OnceLock;
use std::time::Duration;

use crate::Stopwatch;

/// How many times longer than written [`Deadline::seconds`] waits in this process.
static LONGER: OnceLock<f64> = OnceLock::new();

/// When a wait gives up. Copied into every step of a longer wait, so that the steps share one limit. Time in which this
/// computer's processors were given to others does not count.
#[derive(Clone, Copy, Debug)]
pub struct Deadline {
    watch: Stopwatch,
    limit: Duration,
}

impl Deadline {
    /// Starts now and ends after `limit`.
    #[must_use]
    pub fn after(limit: Duration) -> Self {
        Self { watch: Stopwatch::start(), limit }
    }

    /// Starts now and ends after so many seconds, on a computer of the speed that limits are written for; later on one
    /// for which [`Deadline::lengthen`] asked for more.
    #[must_use]
    pub fn seconds(limit: u64) -> Self {
        Self::after(Duration::from_secs(limit).mul_f64(*LONGER.get().unwrap_or(&1.0)))
    }

    /// From now on every [`Deadline::seconds`] of this process is so many times longer ([`crate::slowness`]); nothing
    /// makes it shorter. Only the first call counts, so that all parts of a run have the same measure.
    pub fn lengthen(times: f64) {
        let _ = LONGER.set(times.max(1.0));
    }

    /// What is left; `None` once it has passed.
    #[must_use]
    pub fn left(&self) -> Option<Duration> {
        self.limit.checked_sub(self.watch.spent()).filter(|left| !left.is_zero())
    }

    /// How long the wait has taken so far, by the clock on the wall.
    #[must_use]
    pub fn waited(&self) -> Duration {
        self.watch.elapsed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passes() {
        assert!(Deadline::after(Duration::ZERO).left().is_none());
        assert!(Deadline::seconds(60).left().is_some_and(|left| left > Duration::from_secs(50)));
    }
}
