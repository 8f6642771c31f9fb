//! How fast this computer is just now, for waits that shall only notice what will never come.
//!
//! Limits are written for a computer on which an emulated first start takes seventy seconds of one core. Rented cores
//! may be half as fast, and change from one hour to the next; a limit that is too short there reports faults that the
//! image does not have. Never: a limit shorter than written, or a measurement that a result depends on.

use std::hint::black_box;
use std::time::{Duration, Instant};

/// What [`work`] takes, compiled without optimisation, on the computer that limits are written for: worked out from
/// another computer, on which it was held against first starts. A faster build finds every computer fast enough.
const EXPECTED: Duration = Duration::from_millis(640);

/// No computer is given more than so many times the limit; what takes longer is of no use to anybody.
const MOST: f64 = 4.0;

/// How many times longer than written limits should be here: 1 on a computer that is fast enough, at most 4. Takes about
/// a second, on all cores at once, since neighbours share what makes them fast.
#[must_use]
pub fn slowness() -> f64 {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
    let slowest = std::thread::scope(|scope| {
        let all: Vec<_> = (0..cores).map(|_| scope.spawn(work)).collect();
        // A core that could not be measured says nothing.
        all.into_iter().filter_map(|one| one.join().ok()).max().unwrap_or(EXPECTED)
    });
    factor(slowest)
}

fn factor(took: Duration) -> f64 {
    (took.as_secs_f64() / EXPECTED.as_secs_f64()).clamp(1.0, MOST)
}

/// A walk through as much memory as a core's own caches hold. (What is slow in rented cores is the core, not memory.)
fn work() -> Duration {
    const CELLS: usize = 1 << 16;
    const STEPS: u32 = 24_000_000;
    let mut cells = vec![0_u32; CELLS];
    let mut at = 1_u32;
    let since = Instant::now();
    for step in 0..STEPS {
        // Constants of a linear congruential generator (Numerical Recipes).
        at = at.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        if let Some(cell) = cells.get_mut((at >> 8) as usize % CELLS) {
            *cell ^= step;
            at ^= *cell;
        }
    }
    black_box((cells, at));
    since.elapsed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_never_shorter_than_written() {
        let rounded = |millis| (factor(Duration::from_millis(millis)) * 10.0).round();
        assert_eq!([1, 640, 1600, 60_000].map(rounded), [10.0, 10.0, 25.0, 40.0]);
        assert!((1.0..=MOST).contains(&slowness()));
    }
}
