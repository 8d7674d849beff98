//! Durations as Go writes them.

use std::time::Duration;

/// Nanoseconds of one unit.
const UNITS: [(&str, u128); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("μs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// What Go's durations can hold: 2⁶³ - 1 ns, 292 years.
const NANOSECONDS_MAX: u128 = i64::MAX as u128;

/// Why a text is not a duration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    /// The text is not numbers with units.
    #[error("it is not a duration; write numbers with units, such as `500ms`, `10s` or `1h30m`")]
    Form,
    /// The duration is below zero.
    #[error("a duration cannot be negative")]
    Negative,
    /// The duration is longer than 292 years.
    #[error("the duration is too long")]
    TooLong,
}

/// Reads a duration in the grammar of Go's `time.ParseDuration`: `1h30m`, `1.5s`, `500ms`, `0`.
///
/// Fractions of a nanosecond are cut off.
///
/// # Errors
///
/// [`DurationError`], also for a negative duration, which means nothing to weft.
pub fn parse_duration(text: &str) -> Result<Duration, DurationError> {
    let unsigned = text.strip_prefix('+').unwrap_or(text);
    if unsigned.starts_with('-') {
        return Err(DurationError::Negative);
    }
    if unsigned == "0" {
        return Ok(Duration::ZERO);
    }
    let mut rest = unsigned;
    let mut total: u128 = 0;
    loop {
        let (nanoseconds, behind) = term(rest)?;
        total = total.saturating_add(nanoseconds);
        if total > NANOSECONDS_MAX {
            return Err(DurationError::TooLong);
        }
        if behind.is_empty() {
            let total = u64::try_from(total).map_err(|_| DurationError::TooLong)?;
            return Ok(Duration::from_nanos(total));
        }
        rest = behind;
    }
}

/// Reads a duration that may be long: whole days, `30d`, or what [`parse_duration`] reads.
///
/// # Errors
///
/// [`DurationError`], as there.
pub fn parse_span(text: &str) -> Result<Duration, DurationError> {
    const DAY: u64 = 24 * 3600;
    match text.strip_suffix('d').filter(|days| !days.is_empty() && days.bytes().all(|b| b.is_ascii_digit())) {
        Some(days) => {
            let seconds = days.parse().ok().and_then(|days: u64| days.checked_mul(DAY));
            let span = seconds.map(Duration::from_secs).filter(|span| span.as_nanos() <= NANOSECONDS_MAX);
            span.ok_or(DurationError::TooLong)
        }
        None => parse_duration(text),
    }
}

/// Reads one number with its unit, and returns it in nanoseconds with what stands behind it.
fn term(text: &str) -> Result<(u128, &str), DurationError> {
    let (whole, rest) = digits(text);
    let (fraction, rest) = match rest.strip_prefix('.') {
        Some(behind) => digits(behind),
        None => ("", rest),
    };
    if whole.is_empty() && fraction.is_empty() {
        return Err(DurationError::Form);
    }
    let letters = rest.find(|character: char| character == '.' || character.is_ascii_digit()).unwrap_or(rest.len());
    let (unit, rest) = rest.split_at(letters);
    let (_, unit_ns) = UNITS.iter().find(|(name, _)| *name == unit).ok_or(DurationError::Form)?;
    let whole: u128 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| DurationError::TooLong)? };
    let whole_ns = whole.checked_mul(*unit_ns).ok_or(DurationError::TooLong)?;
    Ok((whole_ns.saturating_add(fraction_of(fraction, *unit_ns)), rest))
}

fn digits(text: &str) -> (&str, &str) {
    let end = text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len());
    text.split_at(end)
}

/// Returns how many nanoseconds the decimal fraction `0.<digits>` of a unit is. Digits beyond 18 change nothing.
fn fraction_of(digits: &str, unit_ns: u128) -> u128 {
    let mut scale: u128 = 1;
    let mut numerator: u128 = 0;
    for digit in digits.bytes().take(18) {
        numerator = numerator * 10 + u128::from(digit - b'0');
        scale *= 10;
    }
    numerator * unit_ns / scale
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_long_span_is_written_in_days() {
        assert_eq!(parse_span("30d"), Ok(Duration::from_secs(30 * 24 * 3600)));
        assert_eq!(parse_span("12h"), Ok(Duration::from_secs(12 * 3600)));
        for (text, want) in
            [("d", DurationError::Form), ("1.5d", DurationError::Form), ("-1d", DurationError::Negative)]
        {
            assert_eq!(parse_span(text), Err(want), "{text}");
        }
        assert_eq!(parse_span("99999999999999d"), Err(DurationError::TooLong));
    }

    #[test]
    fn reads_gos_grammar() {
        let rows = [
            ("10s", 10_000_000_000),
            ("1h30m", 5_400_000_000_000),
            ("500ms", 500_000_000),
            ("1.5h", 5_400_000_000_000),
            (".5s", 500_000_000),
            ("1.s", 1_000_000_000),
            ("0", 0),
            ("+5m", 300_000_000_000),
            ("1us2ns", 1_002),
            ("3µs", 3_000),
            ("3μs", 3_000),
            ("0.0000000019s", 1),
            ("2540400h10m10s", 9_145_440_610_000_000_000),
            ("9223372036854775807ns", 9_223_372_036_854_775_807),
        ];
        for (text, want) in rows {
            assert_eq!(parse_duration(text), Ok(Duration::from_nanos(want)), "{text}");
        }
    }

    #[test]
    fn f1_what_is_no_duration_is_refused() {
        for text in ["", "1hh", "h", "10", "1 s", "1d", "s1", "1e3s", ".s", "+", "1..5s", "1s ", "٣s", "inf", "1.5.5s"]
        {
            assert_eq!(parse_duration(text), Err(DurationError::Form), "{text}");
        }
        assert_eq!(parse_duration("-1s"), Err(DurationError::Negative));
        for text in ["9223372036854775808ns", "2562048h", &format!("{}h", "9".repeat(60))] {
            assert_eq!(parse_duration(text), Err(DurationError::TooLong), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_in_parts_is_their_sum(h in 0u64..1000, m in 0u64..1000, s in 0u64..1000, ms in 0u64..1000) {
            let text = format!("{h}h{m}m{s}s{ms}ms");
            let want = Duration::from_millis(((h * 60 + m) * 60 + s) * 1000 + ms);
            prop_assert_eq!(parse_duration(&text), Ok(want));
        }

        #[test]
        fn no_text_makes_it_panic(text in "[0-9.+hmsnuµ-]{0,24}") {
            let _ = parse_duration(&text);
        }
    }
}
