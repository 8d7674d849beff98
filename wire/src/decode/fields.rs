//! The fields of one object, taken out one by one by name.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::str::FromStr;
use std::time::Duration;

use serde_json::Value;

use super::duration::parse_duration;
use super::error::{DecodeError, kind, shown};

/// The fields of one object that nobody has taken yet.
///
/// A name matches without regard to case and underscores: `ServiceID`, `service_id` and `serviceId` are one field. A
/// field that is null counts as absent.
#[derive(Debug)]
#[must_use = "what is left of the fields is unknown: call `finish`"]
pub struct Fields {
    path: String,
    left: BTreeMap<String, Field>,
}

#[derive(Debug)]
struct Field {
    written: String,
    value: Value,
}

fn canonical(name: &str) -> String {
    name.chars().filter(|character| *character != '_').map(|character| character.to_ascii_lowercase()).collect()
}

/// Reports whether a field says nothing: empty, null, zero or false, and so all the way down.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(flag) => !flag,
        Value::Number(number) => number.as_f64() == Some(0.0),
        // Go's clients write a duration that is not set as "0s".
        Value::String(text) => text.is_empty() || text == "0s",
        Value::Array(values) => values.is_empty(),
        Value::Object(fields) => fields.values().all(is_empty),
    }
}

fn mistyped(path: String, expected: &'static str, found: &Value) -> DecodeError {
    DecodeError::Type { path, expected, found: kind(found) }
}

fn parsed<T: FromStr<Err: Display>>(text: &str, path: String) -> Result<T, DecodeError> {
    text.parse().map_err(|error: T::Err| DecodeError::Value { path, reason: error.to_string() })
}

fn string(value: Value, path: &str) -> Result<String, DecodeError> {
    match value {
        Value::String(text) => Ok(text),
        other => Err(mistyped(path.to_owned(), "a string", &other)),
    }
}

impl Fields {
    /// Takes an object apart; `path` is where it stands, empty for a whole document.
    ///
    /// # Errors
    ///
    /// [`DecodeError::Type`] if `value` is not an object, [`DecodeError::Twice`] if two of its names mean one field.
    pub fn new(value: Value, path: &str) -> Result<Self, DecodeError> {
        let Value::Object(entries) = value else {
            let path = if path.is_empty() { "the whole text" } else { path };
            return Err(mistyped(path.to_owned(), "an object", &value));
        };
        let mut fields = Self { path: path.to_owned(), left: BTreeMap::new() };
        for (written, value) in entries {
            let path = fields.path_to(&written);
            if let Some(other) = fields.left.insert(canonical(&written), Field { written, value }) {
                return Err(DecodeError::Twice { path, other: shown(&other.written) });
            }
        }
        Ok(fields)
    }

    /// Returns the path of a field of this object.
    pub fn path_to(&self, name: &str) -> String {
        if self.path.is_empty() { shown(name) } else { format!("{}.{}", self.path, shown(name)) }
    }

    /// Returns the path of a field as it was written, while it has not been taken.
    fn written_path(&self, name: &str) -> String {
        self.path_to(self.left.get(&canonical(name)).map_or(name, |field| &field.written))
    }

    /// Makes the error that a field's value is not acceptable.
    pub fn refuse(&self, name: &str, reason: impl Display) -> DecodeError {
        DecodeError::Value { path: self.path_to(name), reason: reason.to_string() }
    }

    /// Takes a field as it stands, with its path; none if it is absent or null.
    pub fn take(&mut self, name: &str) -> Option<(Value, String)> {
        let field = self.left.remove(&canonical(name))?;
        if field.value.is_null() { None } else { Some((field.value, self.path_to(&field.written))) }
    }

    /// Takes a string; empty if it is absent.
    pub fn text(&mut self, name: &str) -> Result<String, DecodeError> {
        self.take(name).map_or_else(|| Ok(String::new()), |(value, path)| string(value, &path))
    }

    /// Takes a string of its own form, such as a name; none if it is absent or empty.
    pub fn parsed<T: FromStr<Err: Display>>(&mut self, name: &str) -> Result<Option<T>, DecodeError> {
        let Some((value, path)) = self.take(name) else { return Ok(None) };
        let text = string(value, &path)?;
        if text.is_empty() { Ok(None) } else { parsed(&text, path).map(Some) }
    }

    /// Takes a string of its own form that must be there.
    pub fn required<T: FromStr<Err: Display>>(&mut self, name: &str) -> Result<T, DecodeError> {
        let path = self.written_path(name);
        self.parsed(name)?.ok_or(DecodeError::Missing { path })
    }

    /// Takes a boolean; none if it is absent.
    pub fn flag(&mut self, name: &str) -> Result<Option<bool>, DecodeError> {
        match self.take(name) {
            None => Ok(None),
            Some((Value::Bool(flag), _)) => Ok(Some(flag)),
            Some((other, path)) => Err(mistyped(path, "true or false", &other)),
        }
    }

    /// Takes a whole number that fits into `T`; none if it is absent.
    pub fn number<T: TryFrom<u64>>(&mut self, name: &str) -> Result<Option<T>, DecodeError> {
        let Some((value, path)) = self.take(name) else { return Ok(None) };
        let Some(number) = value.as_u64() else {
            let is_negative = value.as_i64().is_some();
            let found = if is_negative { "a negative one" } else { kind(&value) };
            return Err(DecodeError::Type { path, expected: "a whole number", found });
        };
        match T::try_from(number) {
            Ok(number) => Ok(Some(number)),
            Err(_) => Err(DecodeError::Value { path, reason: format!("{number} is too large") }),
        }
    }

    /// Takes a share of all, a number from 0 to 1; none if it is absent.
    pub fn share(&mut self, name: &str) -> Result<Option<f64>, DecodeError> {
        let Some((value, path)) = self.take(name) else { return Ok(None) };
        let Value::Number(number) = &value else { return Err(mistyped(path, "a number from 0 to 1", &value)) };
        match number.as_f64().filter(|share| (0.0..=1.0).contains(share)) {
            Some(share) => Ok(Some(share)),
            None => Err(DecodeError::Value { path, reason: format!("{number} is no share; use a number from 0 to 1") }),
        }
    }

    /// Takes a port; 0 if it is absent.
    pub fn port(&mut self, name: &str) -> Result<u16, DecodeError> {
        let path = self.written_path(name);
        match self.number::<u64>(name)? {
            None => Ok(0),
            Some(number) => u16::try_from(number)
                .map_err(|_| DecodeError::Value { path, reason: format!("{number} is not a port; use 1 to 65535") }),
        }
    }

    /// Takes a duration, a string as Go writes it or a number of nanoseconds; none if it is absent, empty or zero.
    pub fn duration(&mut self, name: &str) -> Result<Option<Duration>, DecodeError> {
        let Some((value, path)) = self.take(name) else { return Ok(None) };
        let duration = match &value {
            Value::String(text) if text.is_empty() => Duration::ZERO,
            Value::String(text) => parse_duration(text)
                .map_err(|error| DecodeError::Value { path, reason: format!("`{}`: {error}", shown(text)) })?,
            Value::Number(number) => match number.as_u64() {
                Some(nanoseconds) => Duration::from_nanos(nanoseconds),
                None => {
                    let reason = "a number of nanoseconds must be whole and not negative".to_owned();
                    return Err(DecodeError::Value { path, reason });
                }
            },
            other => return Err(mistyped(path, "a duration such as \"10s\"", other)),
        };
        Ok(Some(duration).filter(|duration| !duration.is_zero()))
    }

    /// Takes a list; empty if it is absent. Each element is read with its path.
    pub fn list<T>(
        &mut self,
        name: &str,
        mut read: impl FnMut(Value, &str) -> Result<T, DecodeError>,
    ) -> Result<Vec<T>, DecodeError> {
        match self.take(name) {
            None => Ok(Vec::new()),
            Some((Value::Array(values), path)) => values
                .into_iter()
                .enumerate()
                .map(|(position, value)| read(value, &format!("{path}[{position}]")))
                .collect(),
            Some((other, path)) => Err(mistyped(path, "a list", &other)),
        }
    }

    /// Takes a list of strings; empty if it is absent.
    pub fn texts(&mut self, name: &str) -> Result<Vec<String>, DecodeError> {
        self.list(name, string)
    }

    /// Takes a list of strings of their own form; empty if it is absent.
    pub fn parsed_list<T: FromStr<Err: Display>>(&mut self, name: &str) -> Result<Vec<T>, DecodeError> {
        self.list(name, |value, path| parsed(&string(value, path)?, path.to_owned()))
    }

    /// Takes an object whose names are free; empty if it is absent. Each value is read with its path.
    pub fn map<T>(
        &mut self,
        name: &str,
        mut read: impl FnMut(Value, &str) -> Result<T, DecodeError>,
    ) -> Result<BTreeMap<String, T>, DecodeError> {
        match self.take(name) {
            None => Ok(BTreeMap::new()),
            Some((Value::Object(entries), path)) => entries
                .into_iter()
                .map(|(key, value)| {
                    let value = read(value, &format!("{path}.{}", shown(&key)))?;
                    Ok((key, value))
                })
                .collect(),
            Some((other, path)) => Err(mistyped(path, "an object", &other)),
        }
    }

    /// Takes an object of strings whose names are free; empty if it is absent.
    pub fn text_map(&mut self, name: &str) -> Result<BTreeMap<String, String>, DecodeError> {
        self.map(name, string)
    }

    /// Takes an object; none if it is absent.
    pub fn object<T>(
        &mut self,
        name: &str,
        read: impl FnOnce(&mut Fields) -> Result<T, DecodeError>,
    ) -> Result<Option<T>, DecodeError> {
        self.take(name).map(|(value, path)| whole(value, &path, read)).transpose()
    }

    /// Takes objects: a list of them, or one alone, as a block of HCL that stands once.
    pub fn objects<T>(
        &mut self,
        name: &str,
        mut read: impl FnMut(&mut Fields) -> Result<T, DecodeError>,
    ) -> Result<Vec<T>, DecodeError> {
        match self.left.get(&canonical(name)).map(|field| &field.value) {
            Some(Value::Object(_)) => Ok(self.object(name, read)?.into_iter().collect()),
            _ => self.list(name, |value, path| whole(value, path, &mut read)),
        }
    }

    /// Refuses by name those of Consul's fields that weft does not carry out, unless they say nothing: empty, null, zero
    /// or false.
    ///
    /// # Errors
    ///
    /// [`DecodeError::Unsupported`] names the innermost field that says something.
    pub fn unsupported(&mut self, names: &[&str]) -> Result<(), DecodeError> {
        for name in names {
            if let Some((value, path)) = self.take(name)
                && !is_empty(&value)
            {
                return Err(DecodeError::Unsupported { path: loudest(&value, path) });
            }
        }
        Ok(())
    }

    /// Reports whether a field that nobody has taken says something: it is not empty, null, zero or false.
    pub fn says_something(&self, name: &str) -> bool {
        self.left.get(&canonical(name)).is_some_and(|field| !is_empty(&field.value))
    }

    /// Drops fields that a reader's answer carries and a writer may send back, such as `ModifyIndex`.
    pub fn ignored(&mut self, names: &[&str]) {
        for name in names {
            self.left.remove(&canonical(name));
        }
    }

    /// Checks that nothing is left.
    ///
    /// # Errors
    ///
    /// [`DecodeError::Unknown`] names the first field that nobody took.
    pub fn finish(self) -> Result<(), DecodeError> {
        match self.left.values().next() {
            None => Ok(()),
            Some(field) => Err(DecodeError::Unknown { path: self.path_to(&field.written) }),
        }
    }
}

/// Reads a whole object, so that nothing of it is left.
fn whole<T>(
    value: Value,
    path: &str,
    read: impl FnOnce(&mut Fields) -> Result<T, DecodeError>,
) -> Result<T, DecodeError> {
    let mut fields = Fields::new(value, path)?;
    let shaped = read(&mut fields)?;
    fields.finish()?;
    Ok(shaped)
}

/// Returns the path of the first field within `value` that says something.
fn loudest(value: &Value, path: String) -> String {
    match value {
        Value::Object(fields) => match fields.iter().find(|(_, value)| !is_empty(value)) {
            Some((name, value)) => loudest(value, format!("{path}.{}", shown(name))),
            None => path,
        },
        _ => path,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn fields(value: Value) -> Fields {
        Fields::new(value, "service").unwrap()
    }

    #[track_caller]
    fn refused<T>(result: Result<T, DecodeError>, want: &str) {
        match result {
            Ok(_) => panic!("nothing was refused; wanted: {want}"),
            Err(error) => assert_eq!(error.to_string(), want),
        }
    }

    #[test]
    fn names_match_without_regard_to_case_and_in_snake_case() {
        for name in ["ServiceID", "service_id", "serviceId", "SERVICE_ID", "serviceid"] {
            let mut fields = fields(json!({ name: "web-1" }));
            assert_eq!(fields.text("ServiceID").unwrap(), "web-1", "{name}");
            fields.finish().unwrap();
        }
    }

    #[test]
    fn a7_two_spellings_of_one_field_are_refused() {
        refused(
            Fields::new(json!({"ServiceID": "a", "service_id": "b"}), ""),
            "`service_id` and `ServiceID` are the same field; keep one of them",
        );
    }

    #[test]
    fn a7_an_unknown_field_is_refused_with_its_path() {
        let mut fields = fields(json!({"Proxy": {"foo": 1}}));
        refused(
            fields.object("Proxy", |_| Ok(())),
            "unknown field `service.Proxy.foo`; check its spelling or remove it",
        );
    }

    #[test]
    fn fields_of_consuls_that_say_nothing_are_accepted() {
        let value = json!({
            "A": null, "B": "", "C": 0, "D": false, "E": [], "F": {"Mode": "", "G": {"H": null}}, "I": "0s", "J": 0.0
        });
        let mut fields = fields(value);
        fields.unsupported(&["a", "b", "c", "d", "e", "f", "i", "j", "absent"]).unwrap();
        fields.finish().unwrap();
    }

    #[test]
    fn fields_of_consuls_that_say_something_are_refused_by_name() {
        let mut fields =
            fields(json!({"Connect": {"SidecarService": null, "Native": true}, "Kind": "x", "Args": [""]}));
        refused(fields.unsupported(&["Connect"]), "`service.Connect.Native` is not supported by weft; remove it");
        refused(fields.unsupported(&["Kind"]), "`service.Kind` is not supported by weft; remove it");
        refused(fields.unsupported(&["Args"]), "`service.Args` is not supported by weft; remove it");
    }

    #[test]
    fn f1_a_wrong_type_is_refused_with_its_path() {
        let mut fields = fields(json!({
            "Port": "80", "Big": 70000, "Less": -1, "Part": 1.5, "Tags": "a", "Tag": ["a", 1], "Meta": {"a": 1}, "On": 1
        }));
        refused(fields.port("Port"), "`service.Port` must be a whole number, not a string");
        refused(fields.port("Big"), "`service.Big`: 70000 is not a port; use 1 to 65535");
        refused(fields.port("Less"), "`service.Less` must be a whole number, not a negative one");
        refused(
            fields.number::<u32>("Part"),
            "`service.Part` must be a whole number, not a fraction or a number out of range",
        );
        refused(fields.texts("Tags"), "`service.Tags` must be a list, not a string");
        refused(fields.texts("Tag"), "`service.Tag[1]` must be a string, not a number");
        refused(fields.text_map("Meta"), "`service.Meta.a` must be a string, not a number");
        refused(fields.flag("On"), "`service.On` must be true or false, not a number");
        refused(Fields::new(json!([]), ""), "`the whole text` must be an object, not a list");
    }

    #[test]
    fn f1_durations_are_strings_or_nanoseconds() {
        let mut fields =
            fields(json!({"A": "1h30m", "B": 5_000_000_000_u64, "C": "", "D": "1hh", "E": -1, "F": true, "G": 0}));
        assert_eq!(fields.duration("A").unwrap(), Some(Duration::from_secs(5400)));
        assert_eq!(fields.duration("B").unwrap(), Some(Duration::from_secs(5)));
        assert_eq!(fields.duration("C").unwrap(), None);
        assert_eq!(fields.duration("G").unwrap(), None);
        refused(
            fields.duration("D"),
            "`service.D`: `1hh`: it is not a duration; write numbers with units, such as `500ms`, `10s` or `1h30m`",
        );
        refused(fields.duration("E"), "`service.E`: a number of nanoseconds must be whole and not negative");
        refused(fields.duration("F"), "`service.F` must be a duration such as \"10s\", not a boolean");
    }

    #[test]
    fn a_block_that_stands_once_is_a_list_of_one() {
        let mut fields = fields(json!({"One": {"n": 1}, "Two": [{"n": 1}, {"n": 2}], "Bad": [1]}));
        let read = |fields: &mut Fields| fields.number::<u8>("N");
        assert_eq!(fields.objects("One", read).unwrap(), [Some(1)]);
        assert_eq!(fields.objects("Two", read).unwrap(), [Some(1), Some(2)]);
        assert_eq!(fields.objects("None", read).unwrap(), []);
        refused(fields.objects("Bad", read), "`service.Bad[0]` must be an object, not a number");
    }

    #[test]
    fn what_must_be_there_is_named_when_it_is_not() {
        let mut fields = fields(json!({"Name": ""}));
        refused(fields.required::<catalog::ServiceName>("Name"), "`service.Name` is missing; set it");
        let mut fields = Fields::new(json!({"Name": "Web!"}), "").unwrap();
        refused(
            fields.required::<catalog::ServiceName>("Name"),
            "`Name`: invalid service name `Web!`: use 1 to 63 of a-z, 0-9 and `-`, with no `-` at either end",
        );
    }
}
