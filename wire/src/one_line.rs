//! Errors with all their causes, for log lines and answers.

use std::error::Error;

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cause_is_told_once() {
        let cause = std::io::Error::other(std::fmt::Error);
        assert_eq!(one_line(&cause), std::fmt::Error.to_string());
        assert_eq!(one_line(&"a b".parse::<catalog::ServiceKey>().unwrap_err()).matches("a b").count(), 1);
    }
}
