//! The words of the selector language.

use super::SelectorError;

/// One word, with the byte that it begins at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) at: usize,
    pub(super) kind: Kind,
}

/// Which word it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    Open,
    Close,
    OpenIndex,
    CloseIndex,
    Comma,
    Dot,
    Equal,
    NotEqual,
    /// A name or one of the language's own words.
    Word(String),
    /// A number, as it was written.
    Number(String),
    /// A quoted text, without its quotes.
    Text(String),
}

/// Splits a text into words.
pub(super) fn tokens(text: &str) -> Result<Vec<Token>, SelectorError> {
    let mut tokens = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches([' ', '\t', '\r', '\n']);
        let at = text.len() - rest.len();
        let Some(first) = rest.chars().next() else { return Ok(tokens) };
        let after_dot = tokens.last().is_some_and(|token: &Token| token.kind == Kind::Dot);
        let (kind, length) = match first {
            '(' => (Kind::Open, 1),
            ')' => (Kind::Close, 1),
            '[' => (Kind::OpenIndex, 1),
            ']' => (Kind::CloseIndex, 1),
            ',' => (Kind::Comma, 1),
            '.' => (Kind::Dot, 1),
            '=' if rest.starts_with("==") => (Kind::Equal, 2),
            '!' if rest.starts_with("!=") => (Kind::NotEqual, 2),
            '"' => quoted(rest, at)?,
            '`' => raw(rest, at)?,
            '0'..='9' | '-' => number(rest, at, after_dot)?,
            'a'..='z' | 'A'..='Z' | '_' => word(rest),
            _ => return Err(syntax(at, format!("`{first}` has no meaning here: put a text in double quotes"))),
        };
        tokens.push(Token { at, kind });
        rest = &rest[length..];
    }
}

pub(super) fn syntax(at: usize, what: impl Into<String>) -> SelectorError {
    SelectorError::Syntax { at, what: what.into() }
}

fn word(rest: &str) -> (Kind, usize) {
    let length = rest.find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '_' | '/'))).unwrap_or(rest.len());
    (Kind::Word(rest[..length].to_owned()), length)
}

/// Behind a dot stands an index into a list, not a fraction: `a.0.1` is three steps.
fn number(rest: &str, at: usize, index: bool) -> Result<(Kind, usize), SelectorError> {
    let digits = |text: &str| text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let sign = usize::from(rest.starts_with('-'));
    let whole = digits(&rest[sign..]);
    if whole == 0 {
        return Err(syntax(at, "`-` begins no number: put a name with a dash in `[\"…\"]`"));
    }
    let mut length = sign + whole;
    if !index && let Some(fraction) = rest[length..].strip_prefix('.') {
        let fraction = digits(fraction);
        if fraction == 0 {
            return Err(syntax(at, "the number ends with its dot: write a digit behind it"));
        }
        length += 1 + fraction;
    }
    if rest[length..].starts_with(|c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '/' | '-')) {
        return Err(syntax(at, "a name begins with a letter: put anything else in double quotes"));
    }
    Ok((Kind::Number(rest[..length].to_owned()), length))
}

fn raw(rest: &str, at: usize) -> Result<(Kind, usize), SelectorError> {
    let inside = &rest[1..];
    let end =
        inside.find('`').ok_or_else(|| syntax(at, "the text that begins here has no end: close it with a backtick"))?;
    Ok((Kind::Text(inside[..end].to_owned()), end + 2))
}

fn quoted(rest: &str, at: usize) -> Result<(Kind, usize), SelectorError> {
    let mut text = String::new();
    let mut chars = rest.char_indices().skip(1);
    while let Some((offset, c)) = chars.next() {
        match c {
            '"' => return Ok((Kind::Text(text), offset + 1)),
            '\n' => break,
            '\\' => text.push(match chars.next() {
                Some((_, '\\')) => '\\',
                Some((_, '"')) => '"',
                Some((_, 'n')) => '\n',
                Some((_, 'r')) => '\r',
                Some((_, 't')) => '\t',
                Some((_, other)) => {
                    return Err(syntax(
                        at + offset,
                        format!("`\\{other}` is no escape: write `\\\\`, or put the text in backticks"),
                    ));
                }
                None => break,
            }),
            other => text.push(other),
        }
    }
    Err(syntax(at, "the text that begins here has no end: close it with a double quote"))
}
