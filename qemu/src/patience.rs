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

/// Measures what something takes, and how much of that is the fault of nobody in it: on a rented computer the machine that
/// it runs in gives its processors' time to others.
#[derive(Clone, Copy, Debug)]
pub struct Stopwatch {
    since: Instant,
    stolen: Duration,
}

impl Stopwatch {
    /// Starts now.
    #[must_use]
    pub fn start() -> Self {
        Self { since: Instant::now(), stolen: stolen() }
    }

    /// By the clock on the wall.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.since.elapsed()
    }

    /// How long a processor stood still meanwhile, on the average of all.
    #[must_use]
    pub fn stolen(&self) -> Duration {
        stolen().saturating_sub(self.stolen)
    }

    /// What is left without the time that was stolen.
    #[must_use]
    pub fn spent(&self) -> Duration {
        self.elapsed().saturating_sub(self.stolen())
    }
}

/// Since this computer started (`proc_stat(5)`, `steal`); no time at all where nobody says.
fn stolen() -> Duration {
    fs_err::read_to_string("/proc/stat").ok().and_then(|stat| stolen_by(&stat)).unwrap_or_default()
}

fn stolen_by(stat: &str) -> Option<Duration> {
    /// Of the clock that the kernel counts by for programs (`USER_HZ`).
    const TICK: Duration = Duration::from_millis(10);
    let all = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let ticks = all.split_whitespace().nth(7)?.parse().ok()?;
    let processors = stat.lines().filter(|line| line.starts_with("cpu")).count() - 1;
    TICK.checked_mul(ticks)?.checked_div(u32::try_from(processors).ok()?)
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

    #[test]
    fn stolen_time_is_that_of_one_processor() {
        let stat = "cpu  100 0 50 900 4 0 3 250 0 0\ncpu0 50 0 25 450 2 0 2 150 0 0\n\
                    cpu1 50 0 25 450 2 0 1 100 0 0\nintr 12\n";
        assert_eq!(stolen_by(stat), Some(Duration::from_millis(1250)));
        assert_eq!(stolen_by("cpu  1 2 3\ncpu0 1 2 3\n"), None);
        assert_eq!(stolen_by("cpu  1 0 1 1 1 0 1 1 0 0\n"), None);
    }
}
