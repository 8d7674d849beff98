//! Instants as certificates write them: whole seconds, no year after 9999.

use catalog::Timestamp;
use time::OffsetDateTime;

/// 9999-12-31T23:59:59Z, the latest instant that a certificate can name (RFC 5280 §4.1.2.5).
const LATEST_S: i64 = 253_402_300_799;

/// Returns the whole second that `timestamp` falls into.
pub(super) fn to_date(timestamp: Timestamp) -> OffsetDateTime {
    let seconds = i64::try_from(timestamp.0 / 1000).unwrap_or(LATEST_S).min(LATEST_S);
    OffsetDateTime::from_unix_timestamp(seconds).expect("seconds from 1970 to 9999 are a date")
}

/// Returns the instant of a certificate's date, or the epoch for one before it.
pub(crate) fn from_seconds(seconds: i64) -> Timestamp {
    Timestamp(u64::try_from(seconds).unwrap_or(0).saturating_mul(1000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_instant_has_a_date() {
        for (milliseconds, seconds) in [(0, 0), (1_999, 1), (u64::MAX, LATEST_S)] {
            assert_eq!(to_date(Timestamp(milliseconds)).unix_timestamp(), seconds);
        }
        assert_eq!(from_seconds(2), Timestamp(2_000));
        assert_eq!(from_seconds(-1), Timestamp(0));
    }
}
