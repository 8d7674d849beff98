//! Errors with all their causes, for log lines and answers, on one line whatever is in them.

use std::error::Error;

/// Longest text that is made harmless; what others sent may be part of it.
const TEXT_BYTES_MAX: usize = 2048;

/// Returns an error and what caused it, outermost first, on one line.
pub fn one_line(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// Returns a text without control characters and cut to a bounded length.
///
/// Errors repeat what somebody sent: a line break in it must not forge a second line in somebody's log.
pub fn harmless(text: &str) -> String {
    let mut line = String::with_capacity(text.len().min(TEXT_BYTES_MAX));
    for character in text.chars() {
        if line.len() >= TEXT_BYTES_MAX {
            line.push('…');
            break;
        }
        if character.is_control() {
            line.extend(character.escape_default());
        } else {
            line.push(character);
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a11_what_somebody_sent_cannot_start_a_new_line() {
        assert_eq!(harmless("a\nb\u{1b}[31m"), "a\\nb\\u{1b}[31m");
        assert!(harmless(&"x".repeat(10_000)).len() <= TEXT_BYTES_MAX + '…'.len_utf8());
    }

    #[test]
    fn every_cause_is_told_once() {
        let cause = std::io::Error::other(std::fmt::Error);
        assert_eq!(one_line(&cause), std::fmt::Error.to_string());
        assert_eq!(one_line(&"a b".parse::<catalog::ServiceKey>().unwrap_err()).matches("a b").count(), 1);
    }
}
