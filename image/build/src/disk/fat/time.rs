//! Times as FAT stores them: two packed 16-bit words, local time by tradition, UTC here.

/// Date and time words of a directory entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    /// Bits 15–9 years since 1980, 8–5 month, 4–0 day.
    pub(super) date: u16,
    /// Bits 15–11 hour, 10–5 minute, 4–0 second / 2.
    pub(super) time: u16,
}

impl Stamp {
    /// From seconds since 1970; outside of 1980 to 2107 the nearest that FAT can say.
    pub(super) fn new(seconds: u64) -> Self {
        const FIRST: u64 = 315_532_800; // 1980-01-01 00:00:00
        const LAST: u64 = 4_354_819_198; // 2107-12-31 23:59:58
        let seconds = seconds.clamp(FIRST, LAST);
        let (mut days, rest) = ((seconds - FIRST) / 86_400, seconds % 86_400);
        let mut year = 1980;
        let leap =
            |year: u64| (year.is_multiple_of(4) && !year.is_multiple_of(100)) || year.is_multiple_of(400);
        while days >= 365 + u64::from(leap(year)) {
            days -= 365 + u64::from(leap(year));
            year += 1;
        }
        let mut month = 1;
        for length in [31, 28 + u64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30] {
            if days < length {
                break;
            }
            days -= length;
            month += 1;
        }
        let date = ((year - 1980) << 9) | (month << 5) | (days + 1);
        let time = ((rest / 3600) << 11) | ((rest / 60 % 60) << 5) | (rest % 60 / 2);
        // Both fit in 16 bits by the clamp above.
        Stamp { date: u16::try_from(date).unwrap_or(u16::MAX), time: u16::try_from(time).unwrap_or(u16::MAX) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps() {
        let fields = |seconds| {
            let Stamp { date, time } = Stamp::new(seconds);
            [1980 + (date >> 9), date >> 5 & 15, date & 31, time >> 11, time >> 5 & 63, (time & 31) * 2]
        };
        assert_eq!(fields(0), [1980, 1, 1, 0, 0, 0]);
        assert_eq!(fields(951_782_399), [2000, 2, 28, 23, 59, 58]);
        assert_eq!(fields(951_782_400), [2000, 2, 29, 0, 0, 0]);
        assert_eq!(fields(1_735_689_599), [2024, 12, 31, 23, 59, 58]);
        assert_eq!(fields(u64::MAX), [2107, 12, 31, 23, 59, 58]);
    }
}
