//! Whether the wall clock can be right at all: certificates that are made or judged by one that stands in 1970 are worth
//! nothing.

use catalog::Timestamp;

use crate::rfc3339;

/// The first moment of 2025. No release is older, so that no clock that is right shows less.
const EARLIEST: Timestamp = Timestamp(1_735_689_600_000);

/// Says that the wall clock shows a time that has long passed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the clock of this machine shows {}, which passed before this program was made: set the clock, with NTP for instance, and \
     start again",
    rfc3339::format(*shown)
)]
pub struct ClockError {
    /// What it shows.
    pub shown: Timestamp,
}

/// Refuses a clock that cannot be right.
///
/// # Errors
///
/// [`ClockError`] for every time before 2025.
pub fn check(now: Timestamp) -> Result<(), ClockError> {
    if now < EARLIEST { Err(ClockError { shown: now }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn z4_a_clock_that_stands_before_this_program_was_made_is_refused() {
        for (now, shown) in [(0, "1970-01-01T00:00:00"), (EARLIEST.0 - 1, "2024-12-31T23:59:59")] {
            let error = check(Timestamp(now)).unwrap_err().to_string();
            assert!(error.contains(shown) && error.contains("set the clock"), "{error}");
        }
        assert_eq!(check(EARLIEST), Ok(()));
        assert_eq!(check(crate::crypto::now()), Ok(()));
    }
}
