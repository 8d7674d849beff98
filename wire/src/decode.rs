//! One decoder for everything that people write: API bodies, HCL files and JSON files.
//!
//! Text becomes a [`Value`] by a strict reader, and a value becomes a type by a [`Shape`], which takes its fields by name.
//! Names match without regard to case and underscores; a name that nothing takes is an error. The caller caps sizes.

mod duration;
mod error;
mod fields;
mod hcl;
mod json;

use std::path::Path;

use serde_json::Value;

pub use duration::{DurationError, parse_duration, parse_span};
pub use error::DecodeError;
pub use fields::Fields;

/// The deepest nesting of arrays and objects that any text may have.
pub const DEPTH_MAX: usize = 32;

/// The form of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// JSON (RFC 8259).
    Json,
    /// The configuration language of Consul's files: HCL without labels, expressions and interpolation.
    Hcl,
    /// HCL whose blocks may carry a label, as ACL policies do: `service "web" { ... }`.
    LabelledHcl,
}

impl Format {
    /// Returns the form of the file at `path` by its extension; none if that is neither `json` nor `hcl`.
    pub fn of(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()? {
            "json" => Some(Self::Json),
            "hcl" => Some(Self::Hcl),
            _ => None,
        }
    }

    /// Returns the form of a text that has no name: JSON begins with a brace, and HCL never does.
    pub fn of_text(text: &str) -> Self {
        if text.trim_start().starts_with('{') { Self::Json } else { Self::Hcl }
    }

    /// Reads a text.
    ///
    /// # Errors
    ///
    /// [`DecodeError::Syntax`] with line and column: not UTF-8, a byte order mark, nesting deeper than [`DEPTH_MAX`], a
    /// name that stands twice in one object, a number that is not finite, a lone surrogate, anything behind the end.
    pub fn read(self, bytes: &[u8]) -> Result<Value, DecodeError> {
        let text = std::str::from_utf8(bytes).map_err(|error| {
            let (line, column) = error::position(bytes, error.valid_up_to());
            DecodeError::Syntax { line, column, reason: "the text is not UTF-8".to_owned() }
        })?;
        if text.starts_with('\u{feff}') {
            let reason = "the text starts with a byte order mark; save it as UTF-8 without one".to_owned();
            return Err(DecodeError::Syntax { line: 1, column: 1, reason });
        }
        match self {
            Self::Json => json::read(text),
            Self::Hcl => hcl::read(text),
            Self::LabelledHcl => hcl::read_labelled(text),
        }
    }
}

/// A type that is made from the fields of an object.
pub trait Shape: Sized {
    /// Takes what the type needs out of `fields`; what is left afterwards is an unknown field.
    ///
    /// # Errors
    ///
    /// [`DecodeError`] names the path of the field and what is wrong with it.
    fn read(fields: &mut Fields) -> Result<Self, DecodeError>;
}

/// Makes a type from a value; `path` is where the value stands, empty for a whole document.
///
/// # Errors
///
/// [`DecodeError`] names the path of the first field that is unknown, unsupported, missing or malformed.
pub fn from_value<T: Shape>(value: Value, path: &str) -> Result<T, DecodeError> {
    let mut fields = Fields::new(value, path)?;
    let shaped = T::read(&mut fields)?;
    fields.finish()?;
    Ok(shaped)
}

/// Makes a type from a JSON text.
///
/// # Errors
///
/// As [`Format::read`] and [`from_value`].
pub fn from_json<T: Shape>(bytes: &[u8]) -> Result<T, DecodeError> {
    from_value(Format::Json.read(bytes)?, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn refused(format: Format, bytes: &[u8], want: &str) {
        let error = format.read(bytes).unwrap_err().to_string();
        assert!(error.contains(want), "{error}");
    }

    #[test]
    fn a7_bytes_that_are_not_utf_8_are_refused_where_they_stand() {
        refused(Format::Json, b"{\n \"a\": \"\xff\"}", "line 2, column 8: the text is not UTF-8");
        refused(Format::Hcl, b"a = \"\xc3\"", "line 1, column 6: the text is not UTF-8");
    }

    #[test]
    fn a7_a_byte_order_mark_is_refused_by_name() {
        refused(Format::Json, "\u{feff}{}".as_bytes(), "byte order mark");
        refused(Format::Hcl, "\u{feff}a = 1".as_bytes(), "byte order mark");
    }

    #[test]
    fn the_extension_says_the_form() {
        assert_eq!(Format::of(Path::new("/etc/weft/web.hcl")), Some(Format::Hcl));
        assert_eq!(Format::of(Path::new("web.json")), Some(Format::Json));
        assert_eq!(Format::of(Path::new("web.yaml")), None);
        assert_eq!(Format::of(Path::new("web")), None);
    }
}
