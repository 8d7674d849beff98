//! Names with variables in them: `${value.team}-web`, `${entity_name}`.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::LoginClaims;

/// The longest text of a template.
const BYTES_MAX: usize = 256;

/// Explains why a text is no name with variables.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameTemplateError {
    /// It is empty, or longer than any name.
    #[error("a name of {bytes} bytes: write 1 to {BYTES_MAX}")]
    Length {
        /// How long it is.
        bytes: usize,
    },
    /// A variable is not closed.
    #[error("`{0}` opens a variable and does not close it: write `${{value.name}}`")]
    Open(String),
    /// Something else stands where a variable belongs.
    #[error(
        "`${{{0}}}` is no variable: write `${{value.name}}` with a name that the auth method's claim mappings give, or what \
         its type knows by itself, such as `${{entity_name}}`"
    )]
    Variable(String),
}

/// Names one fact about an identity.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Variable {
    /// One text, written `value.name`.
    Value(String),
    /// A list of texts, written `list.name`.
    List(String),
    /// What a type of method knows without any mapping, written as it is: `entity_name`, `serviceaccount.name`.
    Fact(String),
}

impl fmt::Display for Variable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Value(name) => write!(f, "value.{name}"),
            Self::List(name) => write!(f, "list.{name}"),
            Self::Fact(name) => f.write_str(name),
        }
    }
}

/// Reports whether a text can name a variable: letters, digits and `_`, a letter first.
pub(crate) fn is_variable_name(text: &str) -> bool {
    text.len() <= 64
        && text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

impl Variable {
    /// Reads a variable's path, as selectors and templates name it.
    pub(crate) fn of_path<S: AsRef<str>>(path: &[S]) -> Option<Self> {
        let path: Vec<&str> = path.iter().map(AsRef::as_ref).collect();
        if path.is_empty() || !path.iter().all(|name| is_variable_name(name)) {
            return None;
        }
        match path[..] {
            ["value", name] => Some(Self::Value(name.to_owned())),
            ["list", name] => Some(Self::List(name.to_owned())),
            ["value" | "list", ..] => None,
            _ => Some(Self::Fact(path.join("."))),
        }
    }
}

/// Is a name in which values of an identity are put.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NameTemplate {
    text: String,
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Fixed(String),
    Variable(Variable),
}

impl NameTemplate {
    /// Returns the text that it was read from.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Returns the variables in it.
    pub fn variables(&self) -> impl Iterator<Item = Variable> {
        self.parts.iter().filter_map(|part| match part {
            Part::Variable(variable) => Some(variable.clone()),
            Part::Fixed(_) => None,
        })
    }

    /// Puts an identity's values in. None where a value is missing or could be more than a part of one name: what a
    /// platform vouches for must not reach past the place that the operator gave it.
    #[must_use]
    pub fn fill(&self, claims: &LoginClaims) -> Option<String> {
        let mut name = String::new();
        for part in &self.parts {
            match part {
                Part::Fixed(text) => name.push_str(text),
                Part::Variable(variable) => {
                    let value = match variable {
                        Variable::Value(name) => claims.values.get(name),
                        Variable::Fact(name) => claims.facts.get(name),
                        Variable::List(_) => None,
                    };
                    let value = value.filter(|value| crate::name::is_segment(value))?;
                    name.push_str(value);
                }
            }
        }
        Some(name)
    }
}

impl FromStr for NameTemplate {
    type Err = NameTemplateError;

    fn from_str(text: &str) -> Result<Self, NameTemplateError> {
        if text.is_empty() || text.len() > BYTES_MAX {
            return Err(NameTemplateError::Length { bytes: text.len() });
        }
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("${") {
            if !before.is_empty() {
                parts.push(Part::Fixed(before.to_owned()));
            }
            let (inside, after) = after.split_once('}').ok_or_else(|| NameTemplateError::Open(text.to_owned()))?;
            let path: Vec<&str> = inside.trim().split('.').collect();
            let variable = Variable::of_path(&path).filter(|variable| !matches!(variable, Variable::List(_)));
            let variable = variable.ok_or_else(|| NameTemplateError::Variable(inside.to_owned()))?;
            parts.push(Part::Variable(variable));
            rest = after;
        }
        if !rest.is_empty() {
            parts.push(Part::Fixed(rest.to_owned()));
        }
        Ok(Self { text: text.to_owned(), parts })
    }
}

impl TryFrom<String> for NameTemplate {
    type Error = NameTemplateError;

    fn try_from(text: String) -> Result<Self, NameTemplateError> {
        text.parse()
    }
}

impl From<NameTemplate> for String {
    fn from(template: NameTemplate) -> Self {
        template.text
    }
}

impl fmt::Display for NameTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}
