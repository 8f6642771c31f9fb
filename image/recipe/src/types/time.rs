//! TOML date-times as seconds since 1970-01-01T00:00:00Z.

use toml::value::{Datetime, Offset};

use super::Invalid;

/// The oldest time a FAT file system can hold: 1980-01-01T00:00:00Z.
const FAT_EPOCH: i64 = 315_532_800;

/// Checks that a release time can be written to every file system of an image.
pub(crate) fn unix_seconds(seconds: i64) -> Result<u64, Invalid> {
    match u64::try_from(seconds) {
        Ok(value) if seconds >= FAT_EPOCH => Ok(value),
        _ => Err(Invalid::new("before 1980, which the FAT boot partition cannot hold")),
    }
}

/// Seconds since the epoch of a date-time with offset, leap seconds not counted (POSIX).
pub(crate) fn from_datetime(datetime: &Datetime) -> Result<u64, Invalid> {
    let (Some(date), Some(time), Some(offset)) = (datetime.date, datetime.time, datetime.offset) else {
        return Err(Invalid::new("not an instant: date, time and offset are needed")
            .help("write it like `2025-01-31T12:00:00Z`"));
    };
    let minutes = match offset {
        Offset::Z => 0,
        Offset::Custom { minutes } => i64::from(minutes),
    };
    let of_day = i64::from(time.hour) * 3600
        + i64::from(time.minute) * 60
        + i64::from(time.second.unwrap_or_default());
    let days = days_since_epoch(i64::from(date.year), i64::from(date.month), i64::from(date.day));
    unix_seconds(days * 86_400 + of_day - minutes * 60)
}

/// Days from 1970-01-01 in the proleptic Gregorian calendar. Counting years from March puts the leap day last,
/// so that the months before it have a fixed pattern: 153 days in five months.
const fn days_since_epoch(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let month_from_march = (month + 9) % 12;
    let day_of_year = (153 * month_from_march + 2) / 5 + day - 1;
    year * 365 + year / 4 - year / 100 + year / 400 + day_of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(text: &str) -> Result<u64, Invalid> {
        from_datetime(&text.parse().unwrap())
    }

    /// Expected values: `date -u -d … +%s`.
    #[test]
    fn instants_count_like_date() {
        assert_eq!(seconds("1980-01-01T00:00:00Z"), Ok(315_532_800));
        assert_eq!(seconds("2000-02-29T23:59:59Z"), Ok(951_868_799));
        assert_eq!(seconds("2025-03-01T00:00:00Z"), Ok(1_740_787_200));
        assert_eq!(seconds("2025-12-31T12:00:00+02:00"), Ok(1_767_175_200));
        assert_eq!(seconds("2100-03-01T00:00:00Z"), Ok(4_107_542_400));
    }

    #[test]
    fn times_without_offset_or_before_fat_are_refused() {
        assert!(seconds("2025-01-01").is_err());
        assert!(seconds("2025-01-01T00:00:00").is_err());
        assert!(seconds("1979-12-31T23:59:59Z").is_err());
    }
}
