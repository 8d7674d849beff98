//! What a selector answers for one document.

use serde_json::{Number, Value};

use super::{
    SelectorMismatch,
    parse::{Expression, Test},
};

/// Answers as soon as the answer is certain: what stands right of it is then not asked.
pub(super) fn evaluate(expression: &Expression, document: &Value) -> Result<bool, SelectorMismatch> {
    match expression {
        Expression::All(parts) => holds_until(parts, document, false),
        Expression::Any(parts) => holds_until(parts, document, true),
        Expression::Not(inner) => evaluate(inner, document).map(|holds| !holds),
        Expression::Test { path, test } => ask(test, find(document, path)).map_err(|found| SelectorMismatch {
            path: path.join("."),
            operator: test.operator(),
            found,
        }),
    }
}

fn holds_until(parts: &[Expression], document: &Value, end: bool) -> Result<bool, SelectorMismatch> {
    for part in parts {
        if evaluate(part, document)? == end {
            return Ok(end);
        }
    }
    Ok(!end)
}

/// What the path does not lead to is [`Value::Null`], which is also how Consul writes an empty list.
fn find<'a>(document: &'a Value, path: &[String]) -> &'a Value {
    path.iter()
        .try_fold(document, |value, step| match value {
            Value::Object(fields) => fields.get(step),
            Value::Array(entries) => step.parse().ok().and_then(|index: usize| entries.get(index)),
            _ => None,
        })
        .unwrap_or(&Value::Null)
}

/// Asks one value; the error is the kind of what cannot be asked.
fn ask(test: &Test, value: &Value) -> Result<bool, &'static str> {
    match (test, value) {
        (Test::IsEmpty, Value::Null) => Ok(true),
        (Test::IsEmpty, Value::String(text)) => Ok(text.is_empty()),
        (Test::IsEmpty, Value::Array(entries)) => Ok(entries.is_empty()),
        (Test::IsEmpty, Value::Object(fields)) => Ok(fields.is_empty()),
        (_, Value::Null) => Ok(false),
        (Test::Equals(text), value) => equals(value, text),
        (Test::OneOf(choices), value) => any(choices, |choice| equals(value, choice)),
        (Test::Contains(text), Value::String(value)) => Ok(value.contains(text.as_str())),
        (Test::Contains(text), Value::Array(entries)) => any(entries, |entry| equals(entry, text)),
        (Test::Contains(text), Value::Object(fields)) => Ok(fields.contains_key(text)),
        (Test::Matches(pattern), Value::String(text)) => Ok(pattern.is_match(text)),
        (Test::IsEmpty | Test::Contains(_) | Test::Matches(_), other) => Err(kind(other)),
    }
}

fn any<T>(items: &[T], mut holds: impl FnMut(&T) -> Result<bool, &'static str>) -> Result<bool, &'static str> {
    for item in items {
        if holds(item)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Numbers and booleans are compared as what they are: `Port == 80` and `Port == "80"` are one question, as in Consul.
fn equals(value: &Value, text: &str) -> Result<bool, &'static str> {
    match value {
        Value::Null => Ok(false),
        Value::String(value) => Ok(value == text),
        Value::Bool(value) => Ok(text.parse() == Ok(*value)),
        Value::Number(value) => Ok(same_number(value, text)),
        Value::Array(_) | Value::Object(_) => Err(kind(value)),
    }
}

fn same_number(value: &Number, text: &str) -> bool {
    if let Some(value) = value.as_i64()
        && let Ok(text) = text.parse::<i64>()
    {
        return value == text;
    }
    if let Some(value) = value.as_u64()
        && let Ok(text) = text.parse::<u64>()
    {
        return value == text;
    }
    let written = text.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'.' | b'-'));
    written && value.as_f64().is_some_and(|value| text.parse::<f64>().is_ok_and(|text| value.total_cmp(&text).is_eq()))
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

impl Test {
    fn operator(&self) -> &'static str {
        match self {
            Self::Equals(_) => "==",
            Self::OneOf(_) => "in [...]",
            Self::Contains(_) => "contains",
            Self::Matches(_) => "matches",
            Self::IsEmpty => "is empty",
        }
    }
}
