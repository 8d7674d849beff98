//! Why a text or a value is not what was expected.

use serde_json::Value;

/// Longest part of a field's name that an error repeats.
const NAME_CHARACTERS_MAX: usize = 64;

/// Names the place and the reason why something cannot be decoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The text is not of its form.
    #[error("line {line}, column {column}: {reason}")]
    Syntax {
        /// The line, from 1.
        line: usize,
        /// The column in bytes, from 1.
        column: usize,
        /// What is wrong there.
        reason: String,
    },
    /// Nobody knows the field.
    #[error("unknown field `{path}`; check its spelling or remove it")]
    Unknown {
        /// The field's path as it was written.
        path: String,
    },
    /// Consul knows the field; weft does not carry it out.
    #[error("`{path}` is not supported by weft; remove it")]
    Unsupported {
        /// The field's path as it was written.
        path: String,
    },
    /// A field that must be there is not.
    #[error("`{path}` is missing; set it")]
    Missing {
        /// The field's path.
        path: String,
    },
    /// A field has another type.
    #[error("`{path}` must be {expected}, not {found}")]
    Type {
        /// The field's path as it was written.
        path: String,
        /// What the field takes.
        expected: &'static str,
        /// What was found.
        found: &'static str,
    },
    /// Two names of one object mean the same field.
    #[error("`{path}` and `{other}` are the same field; keep one of them")]
    Twice {
        /// The one path.
        path: String,
        /// The other name.
        other: String,
    },
    /// A field's value is of the right type and still not acceptable.
    #[error("`{path}`: {reason}")]
    Value {
        /// The field's path as it was written.
        path: String,
        /// What is wrong and what to write instead.
        reason: String,
    },
}

/// Returns line and column of the byte at `offset`, both from 1.
pub(super) fn position(text: &[u8], offset: usize) -> (usize, usize) {
    let before = &text[..offset.min(text.len())];
    let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
    let column = 1 + before.iter().rev().take_while(|byte| **byte != b'\n').count();
    (line, column)
}

/// Returns a name as an error may show it: on one line and not long.
pub(super) fn shown(name: &str) -> String {
    let mut shown: String = name.chars().take(NAME_CHARACTERS_MAX).flat_map(char::escape_debug).collect();
    if name.chars().nth(NAME_CHARACTERS_MAX).is_some() {
        shown.push('…');
    }
    shown
}

/// Returns the word for a value's type.
pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(number) if number.is_f64() => "a fraction or a number out of range",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_count_from_one() {
        let text = b"ab\ncd\n";
        assert_eq!(position(text, 0), (1, 1));
        assert_eq!(position(text, 2), (1, 3));
        assert_eq!(position(text, 3), (2, 1));
        assert_eq!(position(text, 6), (3, 1));
        assert_eq!(position(text, 99), (3, 1));
    }

    #[test]
    fn a11_a_name_in_an_error_stays_on_one_line_and_short() {
        assert_eq!(shown("a\n{\"level\""), "a\\n{\\\"level\\\"");
        assert!(shown(&"x".repeat(100_000)).chars().count() <= NAME_CHARACTERS_MAX + 1);
    }
}
