//! How much of a certificate's life is left, and when that is worth somebody's attention.

use crate::{CheckStatus, Timestamp};

/// With less than this part left a certificate is worth a warning, in hundredths.
const WARNING_PERCENT: u64 = 33;
/// With less than this somebody must act: what renews certificates has failed for long.
const CRITICAL_PERCENT: u64 = 15;

/// Is the lifetime of a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetime {
    /// When it was made; a leaf's own `not_before` is earlier, for peers whose clocks are behind.
    pub begin: Timestamp,
    /// When it ends.
    pub end: Timestamp,
}

impl Lifetime {
    /// Returns how much of the life is left, in hundredths, rounded down.
    #[must_use]
    pub fn left_percent(self, now: Timestamp) -> u64 {
        let whole = self.end.0.saturating_sub(self.begin.0).max(1);
        let left = self.end.0.saturating_sub(now.0.max(self.begin.0));
        // Wide enough for the milliseconds of any two dates.
        u64::try_from(u128::from(left) * 100 / u128::from(whole)).unwrap_or(100)
    }

    /// Judges how old the certificate is.
    #[must_use]
    pub fn age(self, now: Timestamp) -> CheckStatus {
        match self.left_percent(now) {
            left if left < CRITICAL_PERCENT => CheckStatus::Critical,
            left if left < WARNING_PERCENT => CheckStatus::Warning,
            _ => CheckStatus::Passing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p9_an_ending_certificate_is_a_warning_at_a_third_and_critical_at_fifteen_hundredths() {
        let lifetime = Lifetime { begin: Timestamp(1_000), end: Timestamp(11_000) };
        for (now, percent, want) in [
            (0, 100, CheckStatus::Passing),
            (1_000, 100, CheckStatus::Passing),
            (7_700, 33, CheckStatus::Passing),
            (7_701, 32, CheckStatus::Warning),
            (9_500, 15, CheckStatus::Warning),
            (9_501, 14, CheckStatus::Critical),
            (11_000, 0, CheckStatus::Critical),
            (u64::MAX, 0, CheckStatus::Critical),
        ] {
            assert_eq!(
                (lifetime.left_percent(Timestamp(now)), lifetime.age(Timestamp(now))),
                (percent, want),
                "at {now}"
            );
        }
    }

    #[test]
    fn p9_a_life_of_no_length_is_over() {
        let lifetime = Lifetime { begin: Timestamp(5), end: Timestamp(5) };
        assert_eq!(lifetime.age(Timestamp(5)), CheckStatus::Critical);
    }
}
