//! Hours of the week, in UTC, at which a permission counts.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{
    NameError, Timestamp,
    node::{UnknownWord, words},
};

const MINUTES_A_DAY: u64 = 24 * 60;

/// Names a day of the week.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Weekday {
    /// Monday.
    Monday,
    /// Tuesday.
    Tuesday,
    /// Wednesday.
    Wednesday,
    /// Thursday.
    Thursday,
    /// Friday.
    Friday,
    /// Saturday.
    Saturday,
    /// Sunday.
    Sunday,
}
words!(Weekday, "day", "`monday` to `sunday`", {
    Monday = "monday", Tuesday = "tuesday", Wednesday = "wednesday", Thursday = "thursday", Friday = "friday",
    Saturday = "saturday", Sunday = "sunday"
});

impl Weekday {
    const ALL: [Self; 7] =
        [Self::Monday, Self::Tuesday, Self::Wednesday, Self::Thursday, Self::Friday, Self::Saturday, Self::Sunday];

    /// Returns the day of the week, counted in days since the epoch, which was a Thursday.
    fn of_day(days: u64) -> Self {
        Self::ALL[usize::try_from((days + 3) % 7).expect("a remainder of seven is small")]
    }
}

/// Is a minute of the day, written `HH:MM`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TimeOfDay(u16);

impl FromStr for TimeOfDay {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let two = |digits: &str| {
            (digits.len() == 2 && digits.bytes().all(|b| b.is_ascii_digit()))
                .then(|| digits.parse::<u16>().ok())
                .flatten()
        };
        match text.split_once(':').map(|(hour, minute)| (two(hour), two(minute))) {
            Some((Some(hour @ 0..=23), Some(minute @ 0..=59))) => Ok(Self(hour * 60 + minute)),
            _ => Err(NameError::new("time of day", text, "use `HH:MM`, from `00:00` to `23:59`, in UTC")),
        }
    }
}

impl TryFrom<String> for TimeOfDay {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<TimeOfDay> for String {
    fn from(time: TimeOfDay) -> Self {
        time.to_string()
    }
}

impl fmt::Display for TimeOfDay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02}:{:02}", self.0 / 60, self.0 % 60)
    }
}

/// Is a time of day, on some days of the week or on all, in UTC.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TimeWindow {
    /// The days on which it begins; every day where there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub days: Vec<Weekday>,
    /// Its first minute.
    pub from: TimeOfDay,
    /// The minute at which it is over; on the next day where that is not after `from`.
    pub until: TimeOfDay,
}

impl TimeWindow {
    /// Reports whether `now` is within it.
    #[must_use]
    pub fn contains(&self, now: Timestamp) -> bool {
        let minutes = now.0 / 60_000;
        let (today, minute) = (minutes / MINUTES_A_DAY, minutes % MINUTES_A_DAY);
        let (from, until) = (u64::from(self.from.0), u64::from(self.until.0));
        let begins_on = |day: u64| self.days.is_empty() || self.days.contains(&Weekday::of_day(day));
        if from < until {
            return begins_on(today) && (from..until).contains(&minute);
        }
        // It goes on over midnight: what began today, or what began yesterday and is not over.
        (minute >= from && begins_on(today)) || (minute < until && today > 0 && begins_on(today - 1))
    }
}

impl fmt::Display for TimeWindow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {} UTC", self.from, self.until)?;
        for (at, day) in self.days.iter().enumerate() {
            write!(f, "{}{day}", if at == 0 { " on " } else { ", " })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3_600_000;
    /// Midnight before Saturday, 21 November 2026.
    const SATURDAY: u64 = 1_795_219_200_000;

    fn window(days: &[Weekday], from: &str, until: &str) -> TimeWindow {
        TimeWindow { days: days.to_vec(), from: from.parse().unwrap(), until: until.parse().unwrap() }
    }

    #[test]
    fn a_window_is_from_its_first_minute_to_before_its_last() {
        assert_eq!(Timestamp(SATURDAY).to_string(), "2026-11-21T00:00:00.000Z");
        let office = window(&[], "09:00", "17:30");
        let at = |ms: u64| office.contains(Timestamp(SATURDAY + ms));
        assert_eq!(
            [at(9 * HOUR - 1), at(9 * HOUR), at(17 * HOUR + HOUR / 2 - 1), at(17 * HOUR + HOUR / 2)],
            [false, true, true, false]
        );
    }

    #[test]
    fn a_window_over_midnight_belongs_to_the_day_on_which_it_begins() {
        let night = window(&[Weekday::Friday], "22:00", "06:00");
        let at = |hours: u64| night.contains(Timestamp(SATURDAY - 24 * HOUR + hours * HOUR));
        assert_eq!(
            [at(5), at(21), at(22), at(24), at(29), at(30), at(46)],
            [false, false, true, true, true, false, false]
        );
        let all_day = window(&[Weekday::Saturday], "00:00", "00:00");
        let at = |hours: u64| all_day.contains(Timestamp(SATURDAY - 24 * HOUR + hours * HOUR));
        assert_eq!([at(23), at(24), at(47), at(48)], [false, true, true, false]);
        assert!(!night.contains(Timestamp(0)), "the first day has no yesterday");
    }

    #[test]
    fn times_of_day_have_one_spelling() {
        assert_eq!("07:05".parse::<TimeOfDay>().unwrap().to_string(), "07:05");
        for wrong in ["", "7:05", "24:00", "12:60", "12", "12:3", "+1:00", "12:00:00"] {
            assert!(wrong.parse::<TimeOfDay>().is_err(), "{wrong}");
        }
    }
}
