//! JSON, strictly: a bounded depth, every name once, nothing behind the end.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::error::shown;
use super::{DEPTH_MAX, DecodeError};

pub(super) fn read(text: &str) -> Result<Value, DecodeError> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let value = Nested { depth: 0 }.deserialize(&mut deserializer);
    value.and_then(|value| deserializer.end().map(|()| value)).map_err(|error| syntax(&error))
}

fn syntax(error: &serde_json::Error) -> DecodeError {
    let text = error.to_string();
    // serde_json puts the position behind its text, where it would stand twice.
    let place = format!(" at line {} column {}", error.line(), error.column());
    let reason = text.strip_suffix(place.as_str()).unwrap_or(&text).to_owned();
    DecodeError::Syntax { line: error.line().max(1), column: error.column().max(1), reason }
}

/// Reads one value that stands inside `depth` arrays and objects.
struct Nested {
    depth: usize,
}

impl Nested {
    fn inner<E: Error>(&self) -> Result<Self, E> {
        if self.depth == DEPTH_MAX {
            return Err(E::custom(format_args!("the text is nested deeper than {DEPTH_MAX} arrays and objects")));
        }
        Ok(Self { depth: self.depth + 1 })
    }
}

impl<'de> DeserializeSeed<'de> for Nested {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Nested {
    type Value = Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("the number is not finite"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = access.next_element_seed(self.inner()?)? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut values = Map::new();
        while let Some(name) = access.next_key::<String>()? {
            // Two readers that keep different ones of two equal names see two different texts.
            if values.contains_key(&name) {
                return Err(A::Error::custom(format_args!("the name `{}` stands twice in one object", shown(&name))));
            }
            let value = access.next_value_seed(self.inner()?)?;
            values.insert(name, value);
        }
        Ok(Value::Object(values))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn refused(text: &str, want: &str) {
        let error = read(text).unwrap_err().to_string();
        assert!(error.contains(want), "{error}");
    }

    #[test]
    fn reads_what_json_is() {
        let text = r#" {"a": [1, -2, 0.5, true, null, "\u00e4\ud83d\ude00"], "b": {}} "#;
        assert_eq!(read(text).unwrap(), json!({"a": [1, -2, 0.5, true, null, "ä😀"], "b": {}}));
        assert_eq!(read("18446744073709551615").unwrap(), json!(u64::MAX));
    }

    #[test]
    fn a7_depth_is_bounded_at_32() {
        let nested = |depth: usize| format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
        read(&nested(DEPTH_MAX)).unwrap();
        refused(&nested(DEPTH_MAX + 1), "nested deeper than 32");
        refused(&"[".repeat(100_000), "nested deeper than 32");
        refused(&"{\"a\":".repeat(100_000), "nested deeper than 32");
    }

    #[test]
    fn a7_a_name_stands_once_in_an_object() {
        refused("{\"a\": 1,\n \"a\": 1}", "line 2, column 4: the name `a` stands twice");
        refused(r#"{"x": {"a": 1, "\u0061": 2}}"#, "the name `a` stands twice");
    }

    #[test]
    fn a7_numbers_are_finite() {
        refused("1e400", "number out of range");
        refused("-1e400", "number out of range");
        refused("NaN", "line 1");
    }

    #[test]
    fn a7_lone_surrogates_are_refused() {
        refused(r#""\ud800""#, "line 1");
        refused(r#""\udc00""#, "line 1");
        refused(r#""\ud800\u0041""#, "line 1");
    }

    #[test]
    fn a7_nothing_stands_behind_the_end() {
        refused("{} x", "line 1, column 4: trailing characters");
        refused("{}{}", "trailing characters");
        refused("", "line 1, column 1: EOF");
        refused("{\"a\": 1,}", "trailing comma");
        refused("\"a\nb\"", "control character");
    }

    proptest! {
        #[test]
        fn no_text_makes_the_reader_panic(text in "[\\[\\]{}\":,0-9eE.+\\\\ua-f \n-]{0,64}") {
            let _ = read(&text);
        }

        #[test]
        fn a_text_that_is_read_means_what_serde_json_says(text in "[\\[\\]{}\":,0-9a ]{0,24}") {
            if let Ok(value) = read(&text) {
                prop_assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), value);
            }
        }
    }
}
