//! From a selector's words to its meaning.

use regex::{Regex, RegexBuilder};

use super::{
    Selector, SelectorError,
    token::{Kind, Token, syntax, tokens},
};

/// The largest compiled regular expression, in bytes: enough for lists of names, too little to hurt.
const PATTERN_BYTES_MAX: usize = 256 * 1024;
const PATTERN_DEPTH_MAX: u32 = 32;

/// What a selector means.
#[derive(Debug, Clone)]
pub(super) enum Expression {
    All(Vec<Self>),
    Any(Vec<Self>),
    Not(Box<Self>),
    Test { path: Vec<String>, test: Test },
}

/// One comparison with what stands at a path.
#[derive(Debug, Clone)]
pub(super) enum Test {
    Equals(String),
    Contains(String),
    OneOf(Vec<String>),
    Matches(Regex),
    IsEmpty,
}

impl Expression {
    pub(super) fn collect_paths<'a>(&'a self, into: &mut Vec<&'a [String]>) {
        match self {
            Self::All(parts) | Self::Any(parts) => parts.iter().for_each(|part| part.collect_paths(into)),
            Self::Not(inner) => inner.collect_paths(into),
            Self::Test { path, .. } => into.push(path),
        }
    }
}

/// Reads a whole selector.
pub(super) fn parse(text: &str) -> Result<Expression, SelectorError> {
    let mut reader = Reader { tokens: tokens(text)?, next: 0, end: text.len(), comparisons: 0 };
    let expression = reader.any(0)?;
    match reader.peek() {
        None => Ok(expression),
        Some(token) => Err(syntax(token.at, "the selector is complete here: join more to it with `and` or `or`")),
    }
}

/// What the left side of a comparison may be, before its operator says which.
enum Operand {
    Path(Vec<String>),
    Text(String),
}

struct Reader {
    tokens: Vec<Token>,
    next: usize,
    end: usize,
    comparisons: usize,
}

impl Reader {
    fn any(&mut self, depth: usize) -> Result<Expression, SelectorError> {
        let mut parts = vec![self.all(depth)?];
        while self.take_word("or") {
            parts.push(self.all(depth)?);
        }
        Ok(one_or(parts, Expression::Any))
    }

    fn all(&mut self, depth: usize) -> Result<Expression, SelectorError> {
        let mut parts = vec![self.negation(depth)?];
        while self.take_word("and") {
            parts.push(self.negation(depth)?);
        }
        Ok(one_or(parts, Expression::All))
    }

    fn negation(&mut self, depth: usize) -> Result<Expression, SelectorError> {
        if depth > Selector::DEPTH_MAX {
            return Err(SelectorError::TooDeep);
        }
        if self.take_word("not") {
            return Ok(Expression::Not(Box::new(self.negation(depth + 1)?)));
        }
        if self.take(&Kind::Open) {
            let inner = self.any(depth + 1)?;
            self.expect(&Kind::Close, "a closing parenthesis")?;
            return Ok(inner);
        }
        self.comparison()
    }

    fn comparison(&mut self) -> Result<Expression, SelectorError> {
        self.comparisons += 1;
        if self.comparisons > Selector::COMPARISONS_MAX {
            return Err(SelectorError::TooMany);
        }
        let at = self.at();
        let left = self.operand()?;
        let operator_at = self.at();
        if self.take(&Kind::Equal) {
            return Ok(test(path_of(left, at)?, Test::Equals(self.literal()?)));
        }
        if self.take(&Kind::NotEqual) {
            return Ok(negated(test(path_of(left, at)?, Test::Equals(self.literal()?))));
        }
        if self.take_word("is") {
            let not = self.take_word("not");
            if !self.take_word("empty") {
                return Err(syntax(self.at(), "`is` asks only for emptiness: write `is empty` or `is not empty`"));
            }
            let empty = test(path_of(left, at)?, Test::IsEmpty);
            return Ok(if not { negated(empty) } else { empty });
        }
        let not = self.take_word("not");
        let made = if self.take_word("in") {
            self.membership(left, at)?
        } else if self.take_word("contains") {
            test(path_of(left, at)?, Test::Contains(self.literal()?))
        } else if self.take_word("matches") {
            test(path_of(left, at)?, Test::Matches(pattern(&self.literal()?)?))
        } else {
            return Err(syntax(
                operator_at,
                "a comparison is missing: write `==`, `!=`, `in`, `contains`, `matches` or `is empty`",
            ));
        };
        Ok(if not { negated(made) } else { made })
    }

    /// `"text" in path`, or `path in ["one", "two"]`.
    fn membership(&mut self, left: Operand, at: usize) -> Result<Expression, SelectorError> {
        if !self.take(&Kind::OpenIndex) {
            let text = match left {
                Operand::Text(text) => text,
                Operand::Path(path) => path.join("."),
            };
            return Ok(test(self.path()?, Test::Contains(text)));
        }
        let Operand::Path(path) = left else {
            return Err(syntax(at, "a text is compared with a list of texts: name a path on the left"));
        };
        let mut choices = vec![self.literal()?];
        while self.take(&Kind::Comma) {
            choices.push(self.literal()?);
        }
        self.expect(&Kind::CloseIndex, "a comma or `]`")?;
        Ok(test(path, Test::OneOf(choices)))
    }

    fn operand(&mut self) -> Result<Operand, SelectorError> {
        match self.peek().map(|token| token.kind.clone()) {
            Some(Kind::Text(text) | Kind::Number(text)) => {
                self.next += 1;
                Ok(Operand::Text(text))
            }
            _ => Ok(Operand::Path(self.path()?)),
        }
    }

    /// A text without quotes is taken as it stands, dots included, as Consul does.
    fn literal(&mut self) -> Result<String, SelectorError> {
        match self.operand()? {
            Operand::Text(text) => Ok(text),
            Operand::Path(path) => Ok(path.join(".")),
        }
    }

    fn path(&mut self) -> Result<Vec<String>, SelectorError> {
        let at = self.at();
        let first = match self.peek().map(|token| token.kind.clone()) {
            Some(Kind::Word(word)) => word,
            Some(Kind::Text(text)) => {
                self.next += 1;
                return pointer(&text, at);
            }
            _ => return Err(syntax(at, "a path is missing: name a field, or put a text in double quotes")),
        };
        self.next += 1;
        let mut path = vec![first];
        loop {
            if self.take(&Kind::Dot) {
                let at = self.at();
                match self.advance() {
                    Some(Kind::Word(step)) => path.push(step),
                    Some(Kind::Number(index)) if !index.starts_with('-') => path.push(index),
                    _ => return Err(syntax(at, "a field's name is missing behind the dot")),
                }
            } else if self.take(&Kind::OpenIndex) {
                let at = self.at();
                let Some(Kind::Text(step)) = self.advance() else {
                    return Err(syntax(at, "`[` holds a name in double quotes, as in `Meta[\"my-key\"]`"));
                };
                path.push(step);
                self.expect(&Kind::CloseIndex, "`]`")?;
            } else {
                return Ok(path);
            }
        }
    }

    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.next)
    }

    fn advance(&mut self) -> Option<Kind> {
        let kind = self.peek()?.kind.clone();
        self.next += 1;
        Some(kind)
    }

    fn at(&self) -> usize {
        self.peek().map_or(self.end, |token| token.at)
    }

    fn take(&mut self, kind: &Kind) -> bool {
        let found = self.peek().is_some_and(|token| token.kind == *kind);
        self.next += usize::from(found);
        found
    }

    fn take_word(&mut self, word: &str) -> bool {
        let found = matches!(self.peek(), Some(Token { kind: Kind::Word(found), .. }) if found == word);
        self.next += usize::from(found);
        found
    }

    fn expect(&mut self, kind: &Kind, what: &str) -> Result<(), SelectorError> {
        if self.take(kind) { Ok(()) } else { Err(syntax(self.at(), format!("{what} is missing"))) }
    }
}

fn test(path: Vec<String>, test: Test) -> Expression {
    Expression::Test { path, test }
}

fn negated(expression: Expression) -> Expression {
    Expression::Not(Box::new(expression))
}

fn one_or(mut parts: Vec<Expression>, join: fn(Vec<Expression>) -> Expression) -> Expression {
    match parts.pop() {
        Some(only) if parts.is_empty() => only,
        Some(last) => {
            parts.push(last);
            join(parts)
        }
        None => join(parts),
    }
}

fn path_of(operand: Operand, at: usize) -> Result<Vec<String>, SelectorError> {
    match operand {
        Operand::Path(path) => Ok(path),
        Operand::Text(text) => pointer(&text, at),
    }
}

/// A quoted path is a JSON pointer (RFC 6901), as in `"/Meta/my-key" == "a"`.
fn pointer(text: &str, at: usize) -> Result<Vec<String>, SelectorError> {
    let Some(steps) = text.strip_prefix('/') else {
        return Err(syntax(
            at,
            format!("`{text}` is a text where a path belongs: drop the quotes, or write `\"/a/b\"`"),
        ));
    };
    Ok(steps.split('/').map(|step| step.replace("~1", "/").replace("~0", "~")).collect())
}

fn pattern(text: &str) -> Result<Regex, SelectorError> {
    RegexBuilder::new(text)
        .size_limit(PATTERN_BYTES_MAX)
        .dfa_size_limit(PATTERN_BYTES_MAX)
        .nest_limit(PATTERN_DEPTH_MAX)
        .build()
        .map_err(|error| SelectorError::Pattern {
            pattern: text.to_owned(),
            reason: match error {
                regex::Error::CompiledTooBig(_) => "it is too large: make its repetitions smaller".to_owned(),
                other => other.to_string().lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned(),
            },
        })
}
