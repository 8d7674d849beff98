//! Instants as people and Consul's clients write them: `2026-11-21T08:00:00Z` (RFC 3339).

use std::time::Duration;

use catalog::Timestamp;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Why a text is not an instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it is not an instant from 1970 on; write it as `2026-11-21T08:00:00Z`")]
pub struct InstantError;

/// Returns an instant as text, in UTC and to the millisecond; instants after the year 9999 as its end.
pub fn format(instant: Timestamp) -> String {
    let latest =
        OffsetDateTime::UNIX_EPOCH + time::Duration::days(2_932_896) + time::Duration::milliseconds(86_399_999);
    let since_epoch = Duration::from_millis(instant.0).try_into().unwrap_or(time::Duration::MAX);
    let date = OffsetDateTime::UNIX_EPOCH.checked_add(since_epoch).unwrap_or(latest).min(latest);
    date.format(&Rfc3339).expect("years from 1970 to 9999 can be written")
}

/// Reads an instant. Parts of a millisecond are cut off.
///
/// # Errors
///
/// [`InstantError`] if the text has another form or the instant lies before 1970.
pub fn parse(text: &str) -> Result<Timestamp, InstantError> {
    let date = OffsetDateTime::parse(text, &Rfc3339).map_err(|_| InstantError)?;
    let milliseconds = date.unix_timestamp_nanos() / 1_000_000;
    u64::try_from(milliseconds).map(Timestamp).map_err(|_| InstantError)
}

/// Carries a [`Timestamp`] as RFC 3339 text; for `#[serde(with = "...")]`.
pub(crate) mod text {
    use catalog::Timestamp;
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(instant: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&super::format(*instant))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Timestamp, D::Error> {
        super::parse(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

/// Carries an optional [`Timestamp`] as RFC 3339 text; for `#[serde(with = "...")]`.
pub(crate) mod optional_text {
    use catalog::Timestamp;
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(instant: &Option<Timestamp>, serializer: S) -> Result<S::Ok, S::Error> {
        match instant {
            Some(instant) => serializer.serialize_str(&super::format(*instant)),
            None => serializer.serialize_none(),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Timestamp>, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?;
        text.map(|text| super::parse(&text)).transpose().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_are_written_in_utc() {
        let rows = [
            (0, "1970-01-01T00:00:00Z"),
            (1_700_000_000_123, "2023-11-14T22:13:20.123Z"),
            (u64::MAX, "9999-12-31T23:59:59.999Z"),
        ];
        for (milliseconds, want) in rows {
            assert_eq!(format(Timestamp(milliseconds)), want);
            if milliseconds < u64::MAX {
                assert_eq!(parse(want), Ok(Timestamp(milliseconds)));
            }
        }
        assert_eq!(parse("1970-01-01T01:00:01+01:00"), Ok(Timestamp(1000)));
    }

    #[test]
    fn f1_what_is_no_instant_is_refused() {
        for text in ["", "tomorrow", "2026-11-21", "2026-13-01T00:00:00Z", "1969-12-31T23:59:59Z", "2026-11-21 08:00"] {
            assert_eq!(parse(text), Err(InstantError), "{text}");
        }
    }
}
