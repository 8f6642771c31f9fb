//! A point in time after which waiting is a failure.

use std::time::{Duration, Instant};

/// When a wait gives up. Copied into every step of a longer wait, so that the steps share one limit.
#[derive(Clone, Copy, Debug)]
pub struct Deadline {
    start: Instant,
    limit: Duration,
}

impl Deadline {
    /// Starts now and ends after `limit`.
    #[must_use]
    pub fn after(limit: Duration) -> Self {
        Self { start: Instant::now(), limit }
    }

    /// Starts now and ends after so many seconds.
    #[must_use]
    pub fn seconds(limit: u64) -> Self {
        Self::after(Duration::from_secs(limit))
    }

    /// What is left; `None` once it has passed.
    #[must_use]
    pub fn left(&self) -> Option<Duration> {
        self.limit.checked_sub(self.start.elapsed()).filter(|left| !left.is_zero())
    }

    /// How long the wait has taken so far.
    #[must_use]
    pub fn waited(&self) -> Duration {
        self.start.elapsed()
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
