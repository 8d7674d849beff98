//! Requests: their one normal form, and the one answer to "may this request pass?".
//!
//! What is decided on is what is forwarded: a proxy takes [`NormalPath`] and [`NormalAuthority`], hands them to
//! [`CompiledPolicy::authorize_request`] and sends on the same. A request that has no normal form is refused, never guessed at.

mod authority;
mod claims;
mod compile;
mod decide;
mod explain;
mod fields;
mod header_rule;
mod not_normal;
mod path;
mod request;
mod sources;

#[cfg(test)]
mod tests;

pub use authority::NormalAuthority;
pub use claims::{TokenState, Tokens};
pub use compile::{CompiledPolicy, PermissionError, check_permission};
pub(crate) use compile::{check_jwt, expression};
pub use decide::{DefaultCause, RequestRule, RequestVerdict, Undecidable};
pub use explain::{Miss, PermissionOutcome, RequestExplanation, WeighedIntention};
pub(crate) use fields::is_reserved;
pub use fields::{
    CALLER_FIELDS, CONNECTION_FIELDS, FIELDS_BYTES_MAX, FIELDS_MAX, HttpVersion, OWN_FIELD_PREFIX, check_fields,
    check_trailers,
};
pub(crate) use header_rule::HeaderRule;
pub use not_normal::NotNormal;
pub use path::NormalPath;
pub use request::{Headers, NoHeaders, NoTokens, Request, check_method};
