//! HCL as Consul's files use it: names, blocks and literal values.
//!
//! Consul reads the first version of the language, in which `connect { sidecar_service {} }` is one line and a block's
//! names may be quoted. Nothing is evaluated: there are no expressions, functions, variables or interpolation.

use std::collections::BTreeMap;

use serde_json::{Map, Number, Value};

use super::error::{position, shown};
use super::{DEPTH_MAX, DecodeError};

pub(super) fn read(text: &str) -> Result<Value, DecodeError> {
    let mut reader = Reader { text, at: 0, depth: 0, has_labels: false };
    let fields = reader.body(None)?;
    Ok(Value::Object(fields))
}

/// Reads a text whose blocks may carry a label: `service "web" { ... }` is the field `web` of the object `service`.
pub(super) fn read_labelled(text: &str) -> Result<Value, DecodeError> {
    let mut reader = Reader { text, at: 0, depth: 0, has_labels: true };
    let fields = reader.body(None)?;
    Ok(Value::Object(fields))
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
    /// The arrays and objects that the reader is inside of.
    depth: usize,
    /// Whether blocks may carry a label.
    has_labels: bool,
}

/// How an object's field came to be; a block may stand several times, an attribute once.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Origin {
    Attribute,
    Block,
    SeveralBlocks,
    LabelledBlock,
}

impl Reader<'_> {
    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn eat(&mut self, token: &str) -> bool {
        let found = self.rest().starts_with(token);
        if found {
            self.at += token.len();
        }
        found
    }

    fn error<T>(&self, reason: impl Into<String>) -> Result<T, DecodeError> {
        self.error_at(self.at, reason)
    }

    fn error_at<T>(&self, at: usize, reason: impl Into<String>) -> Result<T, DecodeError> {
        let (line, column) = position(self.text.as_bytes(), at);
        Err(DecodeError::Syntax { line, column, reason: reason.into() })
    }

    fn unexpected<T>(&self, expected: &str) -> Result<T, DecodeError> {
        match self.peek() {
            None => self.error(format!("expected {expected}, found the end of the text")),
            Some(found) => self.error(format!("expected {expected}, found `{}`", found.escape_debug())),
        }
    }

    /// Skips blanks and comments, and reports whether a line ended among them.
    fn skip(&mut self) -> Result<bool, DecodeError> {
        let start = self.at;
        loop {
            let blanks = self.rest().len() - self.rest().trim_start_matches([' ', '\t', '\r', '\n']).len();
            self.at += blanks;
            if self.rest().starts_with('#') || self.rest().starts_with("//") {
                self.at += self.rest().find('\n').unwrap_or(self.rest().len());
            } else if self.rest().starts_with("/*") {
                match self.rest().find("*/") {
                    Some(end) => self.at += end + 2,
                    None => return self.error("the comment is not closed; add `*/`"),
                }
            } else {
                return Ok(self.text[start..self.at].contains('\n'));
            }
        }
    }

    fn enter(&mut self) -> Result<(), DecodeError> {
        if self.depth == DEPTH_MAX {
            return self.error(format!("the text is nested deeper than {DEPTH_MAX} lists and blocks"));
        }
        self.depth += 1;
        Ok(())
    }

    /// Reads fields up to the closing brace, or up to the end of the text where there is none to come.
    fn body(&mut self, close: Option<char>) -> Result<Map<String, Value>, DecodeError> {
        let mut fields = Map::new();
        let mut origins = BTreeMap::new();
        loop {
            self.skip()?;
            match self.peek() {
                None if close.is_none() => return Ok(fields),
                None => return self.error("the block is not closed; add `}`"),
                Some(found) if Some(found) == close => {
                    self.at += found.len_utf8();
                    return Ok(fields);
                }
                Some(_) => {}
            }
            let start = self.at;
            let name = self.name()?;
            self.skip()?;
            let (value, origin) = match self.peek() {
                Some('=' | ':') => {
                    self.at += 1;
                    self.skip()?;
                    (self.value()?, Origin::Attribute)
                }
                Some('{') => (self.value()?, Origin::Block),
                Some('"') => {
                    let label = self.string()?;
                    if self.has_labels {
                        self.labelled(start, &mut fields, &mut origins, name, label)?;
                        self.separator(close)?;
                        continue;
                    }
                    return self.error_at(
                        start,
                        format!(
                            "the label \"{}\" behind `{}` means nothing here; set `name` inside the block instead",
                            shown(&label),
                            shown(&name),
                        ),
                    );
                }
                _ => return self.unexpected(&format!("`=` or `{{` behind `{}`", shown(&name))),
            };
            let origin = match origins.get(&name) {
                None => {
                    fields.insert(name.clone(), value);
                    origin
                }
                Some(Origin::Block) if origin == Origin::Block => {
                    let first = fields.remove(&name).unwrap_or_default();
                    fields.insert(name.clone(), Value::Array(vec![first, value]));
                    Origin::SeveralBlocks
                }
                Some(Origin::SeveralBlocks) if origin == Origin::Block => {
                    if let Some(Value::Array(blocks)) = fields.get_mut(&name) {
                        blocks.push(value);
                    }
                    Origin::SeveralBlocks
                }
                Some(_) => return self.error_at(start, format!("`{}` stands twice", shown(&name))),
            };
            origins.insert(name, origin);
            self.separator(close)?;
        }
    }

    /// Reads the block behind a label into the object that gathers all blocks of its name.
    fn labelled(
        &mut self,
        start: usize,
        fields: &mut Map<String, Value>,
        origins: &mut BTreeMap<String, Origin>,
        name: String,
        label: String,
    ) -> Result<(), DecodeError> {
        self.skip()?;
        if self.peek() != Some('{') {
            return self.unexpected(&format!("`{{` behind `{} \"{}\"`", shown(&name), shown(&label)));
        }
        // The label is a level of its own, as in the JSON form of the same text.
        self.enter()?;
        let value = self.value()?;
        self.depth -= 1;
        if *origins.entry(name.clone()).or_insert(Origin::LabelledBlock) != Origin::LabelledBlock {
            return self.error_at(start, format!("`{}` stands with a label and without one", shown(&name)));
        }
        let gathered = fields.entry(name.clone()).or_insert_with(|| Value::Object(Map::new()));
        let is_new = match gathered.as_object_mut() {
            Some(gathered) if !gathered.contains_key(&label) => gathered.insert(label.clone(), value).is_none(),
            _ => false,
        };
        if is_new {
            Ok(())
        } else {
            self.error_at(start, format!("`{} \"{}\"` stands twice", shown(&name), shown(&label)))
        }
    }

    /// Reads what stands between two fields: a comma, the end of the line, or nothing before a closing brace.
    fn separator(&mut self, close: Option<char>) -> Result<(), DecodeError> {
        let ended = self.skip()?;
        if self.eat(",") || ended || self.peek().is_none() || self.peek() == close {
            return Ok(());
        }
        self.unexpected("the end of the line or a comma")
    }

    fn name(&mut self) -> Result<String, DecodeError> {
        match self.peek() {
            Some('"') => self.string(),
            Some(first) if first.is_ascii_alphabetic() || first == '_' => {
                let is_inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
                let end = self.rest().find(|c: char| !is_inner(c)).unwrap_or(self.rest().len());
                let name = self.rest()[..end].to_owned();
                self.at += end;
                Ok(name)
            }
            _ => self.unexpected("a name"),
        }
    }

    fn value(&mut self) -> Result<Value, DecodeError> {
        match self.peek() {
            Some('"') => self.string().map(Value::String),
            Some('{') => {
                self.enter()?;
                self.at += 1;
                let fields = self.body(Some('}'))?;
                self.depth -= 1;
                Ok(Value::Object(fields))
            }
            Some('[') => self.list(),
            Some('<') => self.heredoc().map(Value::String),
            Some(first) if first.is_ascii_digit() || matches!(first, '-' | '+' | '.') => self.number(),
            Some(first) if first.is_ascii_alphabetic() => {
                let start = self.at;
                let word = self.name()?;
                match word.as_str() {
                    "true" => Ok(Value::Bool(true)),
                    "false" => Ok(Value::Bool(false)),
                    "null" => Ok(Value::Null),
                    _ => self.error_at(
                        start,
                        format!("`{}` is not a value; put text in quotes (nothing is evaluated here)", shown(&word),),
                    ),
                }
            }
            _ => self.unexpected("a value"),
        }
    }

    fn list(&mut self) -> Result<Value, DecodeError> {
        self.enter()?;
        self.at += 1;
        let mut values = Vec::new();
        loop {
            self.skip()?;
            if self.eat("]") {
                self.depth -= 1;
                return Ok(Value::Array(values));
            }
            values.push(self.value()?);
            self.skip()?;
            if !self.eat(",") && self.peek() != Some(']') {
                return self.unexpected("a comma or `]`");
            }
        }
    }

    fn number(&mut self) -> Result<Value, DecodeError> {
        let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '+');
        let end = self.rest().find(|c: char| !is_part(c)).unwrap_or(self.rest().len());
        let word = &self.rest()[..end];
        // JSON's grammar of numbers, which is HCL's without hexadecimal and octal ones.
        match serde_json::from_str::<Number>(word) {
            Ok(number) => {
                self.at += end;
                Ok(Value::Number(number))
            }
            Err(_) => self.error(format!("`{}` is not a number; put text in quotes", shown(word))),
        }
    }

    fn string(&mut self) -> Result<String, DecodeError> {
        let start = self.at;
        self.at += 1;
        let mut text = String::new();
        loop {
            let Some(character) = self.peek() else {
                return self.error_at(start, "the string is not closed; add `\"`");
            };
            match character {
                '"' => {
                    self.at += 1;
                    return Ok(text);
                }
                '\\' => text.push(self.escape()?),
                '$' | '%' if self.rest()[1..].starts_with('{') => {
                    return self.error("nothing is interpolated here; write the value itself");
                }
                character if character.is_control() => {
                    return self.error("a string ends on its line and holds no control characters; write `\\n`");
                }
                character => {
                    text.push(character);
                    self.at += character.len_utf8();
                }
            }
        }
    }

    fn escape(&mut self) -> Result<char, DecodeError> {
        let start = self.at;
        self.at += 1;
        let Some(letter) = self.peek() else { return self.error_at(start, "the escape has no letter") };
        self.at += letter.len_utf8();
        match letter {
            'n' => Ok('\n'),
            't' => Ok('\t'),
            'r' => Ok('\r'),
            '"' | '\\' => Ok(letter),
            'u' => self.code_point(start, 4),
            'U' => self.code_point(start, 8),
            _ => self.error_at(
                start,
                format!("`\\{}` is not an escape; write `\\\\` for a backslash", shown(&letter.to_string())),
            ),
        }
    }

    fn code_point(&mut self, start: usize, digits: usize) -> Result<char, DecodeError> {
        let hexadecimal = self.rest().get(..digits).filter(|text| text.bytes().all(|byte| byte.is_ascii_hexdigit()));
        let character = hexadecimal.and_then(|text| u32::from_str_radix(text, 16).ok()).and_then(char::from_u32);
        match character {
            Some(character) => {
                self.at += digits;
                Ok(character)
            }
            None => self.error_at(start, format!("the escape needs {digits} hexadecimal digits of a character")),
        }
    }

    /// Reads `<<NAME` with the lines up to the one that is `NAME`; `<<-NAME` takes the common indentation away.
    fn heredoc(&mut self) -> Result<String, DecodeError> {
        let start = self.at;
        if !self.eat("<<") {
            return self.unexpected("a value");
        }
        let is_indented = self.eat("-");
        let name = match self.peek() {
            Some('"') => return self.unexpected("the name of the text's last line"),
            _ => self.name()?,
        };
        if !self.eat("\n") && !self.eat("\r\n") {
            return self.unexpected("the end of the line");
        }
        let mut lines = Vec::new();
        loop {
            if self.rest().is_empty() {
                return self.error_at(start, format!("the text has no last line `{}`", shown(&name)));
            }
            let (line, next) = match self.rest().find('\n') {
                Some(end) => (self.rest()[..end].trim_end_matches('\r').to_owned(), end + 1),
                None => (self.rest().to_owned(), self.rest().len()),
            };
            if line.trim_start_matches([' ', '\t']) == name {
                // The line's end stays: it separates this field from the next.
                self.at += line.len();
                break;
            }
            if line.contains("${") || line.contains("%{") {
                return self.error("nothing is interpolated here; write the value itself");
            }
            self.at += next;
            lines.push(line);
        }
        let indent_of = |line: &String| line.len() - line.trim_start_matches([' ', '\t']).len();
        let filled = lines.iter().filter(|line| !line.trim().is_empty());
        let indent = if is_indented { filled.map(indent_of).min().unwrap_or(0) } else { 0 };
        Ok(lines.iter().map(|line| format!("{}\n", line.get(indent..).unwrap_or_default())).collect())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(text: &str, want: Value) {
        assert_eq!(read(text).unwrap(), want);
    }

    #[track_caller]
    fn refused(text: &str, want: &str) {
        let error = read(text).unwrap_err().to_string();
        assert!(error.contains(want), "{error}");
    }

    #[test]
    fn reads_a_consul_service_definition() {
        let text = r#"
            # The shop's front.
            service {
              name = "web"
              id   = "web-1"
              port = 8080
              tags = ["v1", "blue",]
              meta { "app.version" = "1.0", team = "shop" }
              connect { sidecar_service {} }
              checks = [
                { http = "http://127.0.0.1:8080/", interval = "10s" }, // shallow
                { ttl = "30s" }
              ]
            }
        "#;
        check(
            text,
            json!({"service": {
                "name": "web", "id": "web-1", "port": 8080, "tags": ["v1", "blue"],
                "meta": {"app.version": "1.0", "team": "shop"},
                "connect": {"sidecar_service": {}},
                "checks": [{"http": "http://127.0.0.1:8080/", "interval": "10s"}, {"ttl": "30s"}],
            }}),
        );
    }

    #[test]
    fn blocks_of_one_name_are_a_list() {
        check(
            "service { name = \"a\" }\nservice { name = \"b\" }\nservice { name = \"c\" }",
            json!({
                "service": [{"name": "a"}, {"name": "b"}, {"name": "c"}]
            }),
        );
        check("service = [{ name = \"a\" }]", json!({"service": [{"name": "a"}]}));
    }

    #[test]
    fn reads_every_kind_of_literal() {
        check(
            "a = -1\nb = 1.5\nc = true\nd = null\ne = \"\\u00e4\\n\\\"\\U0001F600\"\nf = []\ng = {}",
            json!({
                "a": -1, "b": 1.5, "c": true, "d": null, "e": "ä\n\"😀", "f": [], "g": {}
            }),
        );
        check(
            "a = <<EOF\n  one\n  two\nEOF\nb = <<-EOF\n    one\n      two\n    EOF\n",
            json!({
                "a": "  one\n  two\n", "b": "one\n  two\n"
            }),
        );
        check("/* nothing */", json!({}));
        check("\"quoted name\": 1", json!({"quoted name": 1}));
    }

    #[test]
    fn f1_a_name_that_stands_twice_is_refused_where_it_stands() {
        refused("a = 1\na = 2", "line 2, column 1: `a` stands twice");
        refused("a = 1\na {}", "line 2, column 1: `a` stands twice");
        refused("a {}\na = {}", "line 2, column 1: `a` stands twice");
        refused("x {\n  a = 1, a = 1 }", "line 2, column 10: `a` stands twice");
    }

    #[test]
    fn f1_nothing_is_evaluated() {
        refused("a = \"${env.HOME}\"", "nothing is interpolated");
        refused("a = <<EOF\n${x}\nEOF", "nothing is interpolated");
        refused("a = env.HOME", "`env.HOME` is not a value");
        refused("a = 1 + 1", "expected the end of the line or a comma, found `+`");
        refused("a = 0x10", "`0x10` is not a number");
    }

    #[test]
    fn f1_errors_say_where_they_are() {
        refused("a = \n}", "line 2, column 1: expected a value, found `}`");
        refused("a = \"x", "line 1, column 5: the string is not closed");
        refused("a = \"x\ny\"", "line 1, column 7: a string ends on its line");
        refused("a {\n b = 1", "line 2, column 7: the block is not closed");
        refused("a = 1 b = 2", "line 1, column 7: expected the end of the line or a comma");
        refused("a = [1 2]", "line 1, column 8: expected a comma or `]`");
        refused("service \"web\" {}", "line 1, column 1: the label \"web\" behind `service` means nothing here");
        refused("a = \"\\q\"", "line 1, column 6: `\\q` is not an escape");
        refused("a = \"\\ud800\"", "line 1, column 6: the escape needs 4");
        refused("a = <<EOF\nx", "line 1, column 5: the text has no last line `EOF`");
        refused("/* x", "line 1, column 1: the comment is not closed");
        refused("a = 1e400", "is not a number");
        refused("}", "expected a name, found `}`");
    }

    #[test]
    fn a7_depth_is_bounded_at_32() {
        let nested = |depth: usize| format!("a = {}{}", "[".repeat(depth), "]".repeat(depth));
        read(&nested(DEPTH_MAX)).unwrap();
        refused(&nested(DEPTH_MAX + 1), "nested deeper than 32");
        refused(&format!("a = {}", "[".repeat(100_000)), "nested deeper than 32");
        refused(&"a {".repeat(100_000), "nested deeper than 32");
    }

    proptest! {
        #[test]
        fn no_text_makes_the_reader_panic(text in "[\\[\\]{}\"=:,a-c0-9.$%<\\\\/*#\n ä-]{0,64}") {
            let _ = read(&text);
        }

        #[test]
        fn a_string_is_read_as_it_was_written(text in "[^\\p{C}\"\\\\$%]{0,32}") {
            let document = format!("a = \"{text}\"");
            prop_assert_eq!(read(&document).unwrap(), json!({"a": text}));
        }
    }
}
