//! From when until when certificates are valid, and when the next one is due.
//!
//! The clock of the machine that makes a certificate may be wrong. A Raspberry Pi has no clock of its own and
//! starts at the time of its image or of its last shutdown; a virtual machine may be off by hours; a dead
//! battery can mean years. What that does to a certificate:
//!
//! - *Clock behind:* the certificate ends early. [`renewal`] says so once the clock is right, and the next one
//!   is made.
//! - *Clock ahead:* the certificate begins in the future and every client refuses it. Server certificates
//!   therefore begin [`LEAF_BACKDATED_DAYS`] days in the past; more than that, and [`renewal`] answers
//!   [`Renewal::NotYetValid`].
//!
//! For the authority neither may happen, because the owner would have to import a new one. It begins at
//! [`CA_NOT_BEFORE`], a fixed time before any appliance was made. Nothing is lost by that: a certificate that was
//! valid before its key existed lets nobody do anything. And it does not tell when the appliance was set up.
//!
//! All times are cut to midnight UTC, so that a certificate does not tell the hour either.

use super::TlsError;
use std::time::{Duration, SystemTime};
use x509_cert::Certificate;
use x509_cert::der::Decode;
use x509_cert::time::{Time, Validity};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// The beginning of every authority, in seconds since the Unix epoch: 2025-01-01T00:00:00Z.
pub const CA_NOT_BEFORE: u64 = 1_735_689_600;
/// How long an authority is valid after it was made: ten years, in days.
pub const CA_DAYS: u32 = 3653;
/// From the beginning to the end of a server certificate, in days. Some systems refuse longer ones.
pub const LEAF_DAYS: u32 = 397;
/// How much of [`LEAF_DAYS`] lies in the past when the certificate is made.
pub const LEAF_BACKDATED_DAYS: u32 = 31;
/// A server certificate is due for renewal when it has fewer days left than this.
pub const RENEW_DAYS: u32 = 30;

/// What is to be done about a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renewal {
    /// Nothing.
    Fine {
        /// Whole days until it expires.
        days_left: u64,
    },
    /// It is still valid, but a new one is to be made now.
    Due,
    /// Clients refuse it: its time is over, or the clock is ahead.
    Expired,
    /// Clients refuse it: its time has not come, since it was made while the clock was ahead (or the clock is
    /// behind now).
    NotYetValid,
}

/// Decides what is to be done about a server certificate in DER.
///
/// # Errors
/// [`TlsError::Certificate`] if it cannot be read; it has to be replaced then, too.
pub fn renewal(now: SystemTime, der: &[u8]) -> Result<Renewal, TlsError> {
    renewal_within(now, der, DAY * RENEW_DAYS)
}

/// Decides what is to be done about a certificate in DER that must be replaced `margin` before it expires.
///
/// # Errors
/// As [`renewal`].
pub fn renewal_within(now: SystemTime, der: &[u8], margin: Duration) -> Result<Renewal, TlsError> {
    let certificate = Certificate::from_der(der).map_err(TlsError::Certificate)?;
    let validity = certificate.tbs_certificate().validity();
    let (begin, end) = (validity.not_before.to_system_time(), validity.not_after.to_system_time());
    Ok(decide(now, begin, end, margin))
}

fn decide(now: SystemTime, begin: SystemTime, end: SystemTime, margin: Duration) -> Renewal {
    if now < begin {
        return Renewal::NotYetValid;
    }
    match end.duration_since(now) {
        Err(_) => Renewal::Expired,
        Ok(left) if left < margin => Renewal::Due,
        Ok(left) => Renewal::Fine { days_left: left.as_secs() / DAY.as_secs() },
    }
}

/// The validity of an authority made now.
pub(super) fn of_authority(now: SystemTime) -> Result<Validity, TlsError> {
    let end = midnight(now)?.checked_add(DAY * CA_DAYS).ok_or(TlsError::Clock)?;
    span(ca_not_before(), end)
}

/// The validity of a server certificate made now by an authority that ends at `authority_end`.
pub(super) fn of_leaf(now: SystemTime, authority_end: SystemTime) -> Result<Validity, TlsError> {
    let today = midnight(now)?;
    if now >= authority_end {
        return Err(TlsError::AuthorityExpired);
    }
    let begin = today.checked_sub(DAY * LEAF_BACKDATED_DAYS).ok_or(TlsError::Clock)?;
    let end = begin.checked_add(DAY * LEAF_DAYS).ok_or(TlsError::Clock)?;
    span(begin.max(ca_not_before()), end.min(authority_end))
}

/// The validity of a server certificate made now that needs no authority.
pub(super) fn of_self_signed(now: SystemTime) -> Result<Validity, TlsError> {
    let end = midnight(now)?.checked_add(DAY * LEAF_DAYS).ok_or(TlsError::Clock)?;
    of_leaf(now, end)
}

/// The last midnight, if the clock can be right.
fn midnight(now: SystemTime) -> Result<SystemTime, TlsError> {
    let days = now.duration_since(ca_not_before()).map_err(|_| TlsError::Clock)?.as_secs() / DAY.as_secs();
    let since = DAY.checked_mul(u32::try_from(days).map_err(|_| TlsError::Clock)?).ok_or(TlsError::Clock)?;
    ca_not_before().checked_add(since).ok_or(TlsError::Clock)
}

fn ca_not_before() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(CA_NOT_BEFORE)
}

fn span(begin: SystemTime, end: SystemTime) -> Result<Validity, TlsError> {
    let time = |time: SystemTime| Time::try_from(time).map_err(|_| TlsError::Clock);
    Ok(Validity::new(time(begin)?, time(end)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn day(number: u32) -> SystemTime {
        ca_not_before() + DAY * number
    }

    proptest! {
        /// Exactly one answer, and the one that the two ends of the time dictate.
        #[test]
        fn decision_follows_from_the_ends(now in 0u32..2000, begin in 0u32..2000, length in 1u32..1000, margin in 0u32..100) {
            let end = begin + length;
            let decision = decide(day(now), day(begin), day(end), DAY * margin);
            let expected = if now < begin { Renewal::NotYetValid }
                else if now > end { Renewal::Expired }
                else if end - now < margin { Renewal::Due }
                else { Renewal::Fine { days_left: u64::from(end - now) } };
            prop_assert_eq!(decision, expected);
        }

        /// Whatever the clock said when it was made: valid then, inside its authority, never too long.
        #[test]
        fn a_leaf_fits_into_its_authority(made in 0u32..20_000, after in 0u32..CA_DAYS, second in 0u64..86_400) {
            let authority = of_authority(day(made)).unwrap();
            let authority_end = authority.not_after.to_system_time();
            let now = day(made + after) + Duration::from_secs(second);
            let leaf = of_leaf(now, authority_end).unwrap();
            let (begin, end) = (leaf.not_before.to_system_time(), leaf.not_after.to_system_time());
            prop_assert!(begin >= authority.not_before.to_system_time());
            prop_assert!(end <= authority_end);
            prop_assert!(begin <= now && now < end);
            prop_assert!(end.duration_since(begin).unwrap() <= DAY * LEAF_DAYS);
        }
    }

    #[test]
    fn a_fresh_leaf_has_a_year() {
        let leaf = of_leaf(day(500), day(3000)).unwrap();
        let decision =
            decide(day(500), leaf.not_before.to_system_time(), leaf.not_after.to_system_time(), DAY * 30);
        assert_eq!(decision, Renewal::Fine { days_left: 366 });
    }

    #[test]
    fn impossible_clocks_are_refused() {
        let early = ca_not_before() - Duration::from_secs(1);
        let late = SystemTime::UNIX_EPOCH + DAY * (366 * 9000);
        for clock in [SystemTime::UNIX_EPOCH, early, late] {
            assert!(matches!(of_authority(clock), Err(TlsError::Clock)), "{clock:?}");
        }
        assert!(matches!(of_leaf(early, day(10)), Err(TlsError::Clock)));
    }

    #[test]
    fn an_expired_authority_signs_nothing() {
        assert!(matches!(of_leaf(day(10), day(10)), Err(TlsError::AuthorityExpired)));
        assert!(of_leaf(day(9), day(10)).is_ok());
    }
}
