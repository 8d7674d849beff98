//! A request as rules see it: borrowed, so that deciding costs no copy.

use super::{NormalAuthority, NormalPath, NotNormal, TokenState, Tokens};
use crate::{Platform, Timestamp};

/// Gives the header fields of a request.
pub trait Headers {
    /// Returns the values of the fields of this name, which is in lower case, in the order in which they stand.
    fn values<'s>(&'s self, name: &'s str) -> impl Iterator<Item = &'s [u8]>;
}

impl Headers for [(&str, &str)] {
    fn values<'s>(&'s self, name: &'s str) -> impl Iterator<Item = &'s [u8]> {
        self.iter().filter(move |(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_bytes())
    }
}

impl Headers for Vec<(String, String)> {
    fn values<'s>(&'s self, name: &'s str) -> impl Iterator<Item = &'s [u8]> {
        self.iter().filter(move |(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_bytes())
    }
}

/// Is a request without any header.
#[derive(Debug, Clone, Copy)]
pub struct NoHeaders;

impl Headers for NoHeaders {
    fn values<'s>(&'s self, _name: &'s str) -> impl Iterator<Item = &'s [u8]> {
        std::iter::empty()
    }
}

/// Is a request whose tokens nobody can judge: what asks for one is undecidable.
#[derive(Debug, Clone, Copy)]
pub struct NoTokens;

impl Tokens for NoTokens {
    fn of(&self, _provider: &str) -> TokenState<'_> {
        TokenState::Unknown
    }
}

/// Is what permissions are held against.
#[derive(Debug)]
pub struct Request<'a, H: ?Sized, T: ?Sized> {
    /// The method, checked with [`check_method`].
    pub method: &'a str,
    /// The host that it names; none where it names none.
    pub authority: Option<&'a NormalAuthority<'a>>,
    /// The path, in its normal form.
    pub path: &'a NormalPath<'a>,
    /// The query, as it is; none where there is none.
    pub query: Option<&'a str>,
    /// The header fields.
    pub headers: &'a H,
    /// The tokens, each judged when a rule first asks for it.
    pub tokens: &'a T,
    /// What the caller runs on, as its certificate says; none where it does not.
    pub source_platform: Option<Platform>,
    /// When the request is decided, by this agent's clock.
    pub now: Timestamp,
}

impl<H: ?Sized, T: ?Sized> Clone for Request<'_, H, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<H: ?Sized, T: ?Sized> Copy for Request<'_, H, T> {}

/// Checks that a method is a word of upper-case letters and `-`: applications do not agree on what `get` is.
///
/// # Errors
/// [`NotNormal::Method`] if it is not.
pub fn check_method(method: &str) -> Result<(), NotNormal> {
    let is_method = (1..=32).contains(&method.len()) && method.bytes().all(|b| b.is_ascii_uppercase() || b == b'-');
    if is_method { Ok(()) } else { Err(NotNormal::Method) }
}
