//! What a line of the access log may tell, and which of it an operator wants.

use std::fmt;
use std::str::FromStr;

macro_rules! fields {
    ($($variant:ident $name:literal $is_default:literal: $doc:literal),* $(,)?) => {
        /// Is one thing that a line may tell.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum Field {
            $(#[doc = $doc] $variant,)*
        }

        /// Every field, in the order in which a line tells them, with its name and whether it is told unless others are chosen.
        const ALL: &[(Field, &str, bool)] = &[$((Field::$variant, $name, $is_default)),*];
    };
}

fields! {
    Time "time_ms" true: "Is when the request was over, in milliseconds since 1970.",
    Direction "direction" true: "Is `inbound` or `outbound`.",
    Source "source" true: "Is who asks.",
    Destination "destination" true: "Is who is asked.",
    From "from" true: "Is the address that the request came from.",
    Method "method" true: "Is the method.",
    Authority "authority" false: "Is the host that the request names.",
    Path "path" true: "Is the path, without its query.",
    UserAgent "user_agent" false: "Is what the caller says of its software.",
    Status "status" true: "Is the status of the answer.",
    Reason "reason" true: "Is why it ended, or was refused.",
    Decision "decision" true: "Is `allow`, `deny`, or `audit` for a denial that was let through.",
    Rule "rule" true: "Is the rule that decided.",
    BytesSent "bytes_sent" true: "Counts bytes of the request's body.",
    BytesReceived "bytes_recv" true: "Counts bytes of the answer's body.",
    Duration "duration_ms" true: "Is how long it took.",
    RequestId "request_id" true: "Is the request's id.",
    TraceId "trace_id" true: "Is the trace that it is part of.",
    SpanId "span_id" false: "Is the span that went on.",
}

/// Is a choice of fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fields(u32);

/// Explains why a text is no choice of fields.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{}` is no field of the access log: choose from {}", .name.escape_debug(), Fields::names())]
pub struct UnknownField {
    name: String,
}

impl Default for Fields {
    fn default() -> Self {
        Self::of(|(_, _, is_default)| *is_default)
    }
}

impl Fields {
    fn of(is_chosen: impl Fn(&(Field, &str, bool)) -> bool) -> Self {
        Self(ALL.iter().filter(|field| is_chosen(field)).fold(0, |bits, (field, _, _)| bits | 1 << (*field as u32)))
    }

    /// Reports whether a field is to be told.
    pub(crate) fn has(self, field: Field) -> bool {
        self.0 & 1 << (field as u32) != 0
    }

    fn names() -> String {
        ALL.iter().map(|(_, name, _)| *name).collect::<Vec<_>>().join(", ")
    }
}

impl Field {
    /// Returns the name that a line has it under.
    pub(crate) fn name(self) -> &'static str {
        ALL.iter().find(|(field, _, _)| *field == self).map_or("", |(_, name, _)| name)
    }
}

impl FromStr for Fields {
    type Err = UnknownField;

    fn from_str(text: &str) -> Result<Self, UnknownField> {
        let wanted: Vec<&str> = text.split(',').map(str::trim).filter(|name| !name.is_empty()).collect();
        match wanted.iter().find(|name| !ALL.iter().any(|(_, known, _)| known == *name)) {
            Some(unknown) => Err(UnknownField { name: (*unknown).to_owned() }),
            None if wanted.is_empty() => Err(UnknownField { name: String::new() }),
            None => Ok(Self::of(|(_, name, _)| wanted.contains(name))),
        }
    }
}

impl fmt::Display for Fields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = ALL.iter().filter(|(field, _, _)| self.has(*field)).map(|(_, name, _)| *name);
        f.write_str(&names.collect::<Vec<_>>().join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_chosen_by_name_and_an_unknown_one_is_named() {
        let fields: Fields = "path, status,span_id".parse().unwrap();
        assert!(fields.has(Field::Path) && fields.has(Field::SpanId) && !fields.has(Field::Time));
        assert_eq!(fields.to_string(), "path,status,span_id");
        assert_eq!(fields.to_string().parse(), Ok(fields));
        assert!(!Fields::default().has(Field::UserAgent) && Fields::default().has(Field::Rule));
        for (text, named) in [("path,query", "`query` is no field"), ("", "`` is no field"), ("PATH", "`PATH`")] {
            let error = text.parse::<Fields>().unwrap_err().to_string();
            assert!(error.contains(named) && error.contains("time_ms, direction"), "{error}");
        }
    }
}
