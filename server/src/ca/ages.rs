//! How much of a certificate's life is left, and when that is worth somebody's attention.

use catalog::Timestamp;

/// With less than this part left a certificate is worth a warning, in hundredths.
const WARNING_PERCENT: u64 = 33;
/// With less than this somebody must act: what renews certificates has failed for long.
const CRITICAL_PERCENT: u64 = 15;

/// The lifetime of a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lifetime {
    /// When it was made; a leaf's own `not_before` is earlier, for peers whose clocks are behind.
    pub(crate) begin: Timestamp,
    pub(crate) end: Timestamp,
}

/// How old a certificate is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Age {
    Passing,
    Warning,
    Critical,
}

impl Age {
    /// Returns the word for it.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Passing => "passing",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }

    /// Returns the number for it in metrics.
    pub(crate) fn rank(self) -> i64 {
        match self {
            Self::Passing => 0,
            Self::Warning => 1,
            Self::Critical => 2,
        }
    }
}

impl Lifetime {
    /// Returns how much of the life is left, in hundredths, rounded down.
    pub(crate) fn left_percent(self, now: Timestamp) -> u64 {
        let whole = self.end.0.saturating_sub(self.begin.0).max(1);
        let left = self.end.0.saturating_sub(now.0.max(self.begin.0));
        // Wide enough for the milliseconds of any two dates.
        u64::try_from(u128::from(left) * 100 / u128::from(whole)).unwrap_or(100)
    }

    /// Returns how old the certificate is.
    pub(crate) fn age(self, now: Timestamp) -> Age {
        match self.left_percent(now) {
            left if left < CRITICAL_PERCENT => Age::Critical,
            left if left < WARNING_PERCENT => Age::Warning,
            _ => Age::Passing,
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
            (0, 100, Age::Passing),
            (1_000, 100, Age::Passing),
            (7_700, 33, Age::Passing),
            (7_701, 32, Age::Warning),
            (9_500, 15, Age::Warning),
            (9_501, 14, Age::Critical),
            (11_000, 0, Age::Critical),
            (u64::MAX, 0, Age::Critical),
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
        assert_eq!(lifetime.age(Timestamp(5)), Age::Critical);
    }
}
