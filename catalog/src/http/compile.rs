//! Rules made ready for requests: expressions compiled, sources indexed, once for each change of policy.

use std::sync::Arc;

use regex::Regex;

use super::{
    Headers, Miss, NormalPath, NotNormal, Request, Tokens, Undecidable, decide::Match, header_rule::HeaderRule,
    path::rule_text, sources::Sources,
};
use crate::{
    Action, AuditCause, Effect, Guardrail, HeaderTest, Intention, IntentionKey, JwtRequirement, PathMatch, Permission,
    Platform, Policy, Relaxation, ServiceKey, TimeWindow,
};

/// Explains why a permission cannot be carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PermissionError {
    /// It says nothing about requests.
    #[error("it matches on nothing: name a path, methods, headers, source platforms or a time")]
    Empty,
    /// Its path is none.
    #[error("the path `{}` is not one that a request can have: {problem}", path.escape_debug())]
    Path {
        /// The path.
        path: String,
        /// What is wrong with it.
        problem: NotNormal,
    },
    /// Its path is not the one that requests are held against.
    #[error(
        "the path `{}` matches no request: write it without dot segments, empty segments and `;`, as requests have it",
        path.escape_debug()
    )]
    PathNeverMatches {
        /// The path.
        path: String,
    },
    /// A method is none.
    #[error("`{}` is not a method: use upper-case letters", method.escape_debug())]
    Method {
        /// The method.
        method: String,
    },
    /// A method stands twice.
    #[error("the method `{method}` stands twice")]
    MethodTwice {
        /// The method.
        method: String,
    },
    /// A header's name is none that a request can have.
    #[error("`{}` is no header that a request can have: use a-z, 0-9, `-` and `.`", name.escape_debug())]
    HeaderName {
        /// The name.
        name: String,
    },
    /// What a header is held against is empty or has blanks around it.
    #[error("what header `{name}` is held against is empty or has blanks around it: no value has; use Present for any")]
    HeaderText {
        /// The header's name.
        name: String,
    },
    /// An expression is empty or too long.
    #[error("the expression `{}` is empty or longer than {EXPRESSION_BYTES_MAX} bytes", pattern.chars().take(64).collect::<String>().escape_debug())]
    ExpressionLength {
        /// The expression.
        pattern: String,
    },
    /// An expression does not compile, or becomes too large.
    #[error("the expression `{}` cannot be used: {problem}", pattern.escape_debug())]
    Expression {
        /// The expression.
        pattern: String,
        /// What is wrong with it, on one line.
        problem: String,
    },
    /// It has more of something than every request could be held against.
    #[error("it has {found} {what}: use at most {PARTS_MAX}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many.
        found: usize,
    },
    /// A text in it is too long.
    #[error("`{}...` has {} bytes: use at most {TEXT_BYTES_MAX}", text.chars().take(64).collect::<String>().escape_debug(), text.len())]
    TooLong {
        /// The text.
        text: String,
    },
    /// A condition on the token of a deny.
    #[error("a JWT condition on a deny means nothing: put it on an allow")]
    JwtOnDeny,
    /// A condition on a token names nobody or asks for a claim without saying which.
    #[error("a JWT condition names at least one provider, and a path for each claim")]
    Jwt,
    /// A platform or a day stands twice.
    #[error("`{word}` stands twice")]
    Twice {
        /// The word.
        word: &'static str,
    },
}

/// How long a regular expression is at most.
const EXPRESSION_BYTES_MAX: usize = 1024;
/// How long any other text is at most that requests are held against.
const TEXT_BYTES_MAX: usize = 2048;
/// How many methods, headers, providers or claims a permission has at most.
const PARTS_MAX: usize = 32;

/// Compiles the expressions of rules: of a whole value, linear in its length, and bounded in size.
pub(crate) mod expression {
    use regex::{Error, Regex, RegexBuilder, bytes};

    use super::{EXPRESSION_BYTES_MAX, PermissionError};

    const COMPILED_BYTES_MAX: usize = 256 * 1024;

    /// Compiles an expression over text.
    pub(crate) fn of_text(pattern: &str) -> Result<Regex, PermissionError> {
        compile(pattern, |text| {
            RegexBuilder::new(text).size_limit(COMPILED_BYTES_MAX).dot_matches_new_line(true).build()
        })
    }

    /// Compiles an expression over bytes, of which each is a character: a value that is no UTF-8 hides nothing.
    pub(in crate::http) fn of_bytes(pattern: &str, ignore_case: bool) -> Result<bytes::Regex, PermissionError> {
        compile(pattern, |text| {
            bytes::RegexBuilder::new(text)
                .size_limit(COMPILED_BYTES_MAX)
                .dot_matches_new_line(true)
                .unicode(false)
                .case_insensitive(ignore_case)
                .build()
        })
    }

    fn compile<R>(pattern: &str, build: impl Fn(&str) -> Result<R, Error>) -> Result<R, PermissionError> {
        if pattern.is_empty() || pattern.len() > EXPRESSION_BYTES_MAX {
            return Err(PermissionError::ExpressionLength { pattern: pattern.to_owned() });
        }
        let refuse = |error: Error| {
            let problem = match error {
                Error::CompiledTooBig(_) => "it becomes too large; write it shorter".to_owned(),
                // The last line says what is wrong, the others draw where.
                error => error.to_string().lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned(),
            };
            PermissionError::Expression { pattern: pattern.to_owned(), problem }
        };
        // By itself first: `a)|(b` would only compile inside the group, and escape it.
        build(pattern).map_err(refuse)?;
        build(&format!(r"\A(?:{pattern})\z")).map_err(refuse)
    }
}

/// Checks that a permission says something that can be carried out.
///
/// # Errors
/// [`PermissionError`] names what cannot.
pub fn check_permission(permission: &Permission) -> Result<(), PermissionError> {
    let Permission { action, http, jwt, source_platforms, times } = permission;
    let says_nothing = http.path.is_none() && http.methods.is_empty() && http.headers.is_empty();
    if says_nothing && source_platforms.is_empty() && times.is_none() {
        return Err(PermissionError::Empty);
    }
    few("methods", http.methods.len())?;
    few("headers", http.headers.len())?;
    let path = http.path.iter().map(|path| match path {
        PathMatch::Exact(text) | PathMatch::Prefix(text) | PathMatch::Regex(text) => text,
    });
    let values = http.headers.iter().filter_map(|header| match &header.test {
        HeaderTest::Present => None,
        HeaderTest::Exact(text)
        | HeaderTest::Prefix(text)
        | HeaderTest::Suffix(text)
        | HeaderTest::Contains(text)
        | HeaderTest::Regex(text) => Some(text),
    });
    short(path.chain(http.headers.iter().map(|header| &header.name)).chain(values))?;
    if let Some(path) = &http.path {
        PathRule::new(path)?;
    }
    for (at, method) in http.methods.iter().enumerate() {
        if super::check_method(method).is_err() {
            return Err(PermissionError::Method { method: method.clone() });
        }
        if http.methods[..at].contains(method) {
            return Err(PermissionError::MethodTwice { method: method.clone() });
        }
    }
    http.headers.iter().try_for_each(|header| HeaderRule::new(header, *action).map(drop))?;
    check_words(source_platforms, |platform| platform.as_str())?;
    if let Some(window) = times {
        check_words(&window.days, |day| day.as_str())?;
    }
    if *action == Action::Deny && jwt.is_some() {
        return Err(PermissionError::JwtOnDeny);
    }
    jwt.as_ref().map_or(Ok(()), check_jwt)
}

/// Checks that a condition on tokens can hold.
pub(crate) fn check_jwt(requirement: &JwtRequirement) -> Result<(), PermissionError> {
    few("providers", requirement.providers.len())?;
    for provider in &requirement.providers {
        few("claims", provider.verify_claims.len())?;
        let steps = provider.verify_claims.iter().flat_map(|claim| claim.path.iter().chain([&claim.value]));
        short(steps.chain([&provider.name]))?;
    }
    let is_whole = |path: &Vec<String>| !path.is_empty() && path.iter().all(|step| !step.is_empty());
    let claims = requirement.providers.iter().flat_map(|provider| &provider.verify_claims);
    let names = requirement.providers.iter().all(|provider| !provider.name.is_empty());
    if requirement.providers.is_empty() || !names || !claims.into_iter().all(|claim| is_whole(&claim.path)) {
        return Err(PermissionError::Jwt);
    }
    Ok(())
}

fn few(what: &'static str, found: usize) -> Result<(), PermissionError> {
    if found > PARTS_MAX { Err(PermissionError::TooMany { what, found }) } else { Ok(()) }
}

fn short<'t>(texts: impl IntoIterator<Item = &'t String>) -> Result<(), PermissionError> {
    match texts.into_iter().find(|text| text.len() > TEXT_BYTES_MAX) {
        Some(text) => Err(PermissionError::TooLong { text: text.clone() }),
        None => Ok(()),
    }
}

fn check_words<W: PartialEq>(words: &[W], text: impl Fn(&W) -> &'static str) -> Result<(), PermissionError> {
    match words.iter().enumerate().find(|(at, word)| words[..*at].contains(word)) {
        Some((_, word)) => Err(PermissionError::Twice { word: text(word) }),
        None => Ok(()),
    }
}

/// Is a condition on the path.
#[derive(Debug, Clone)]
enum PathRule {
    Exact(String),
    Prefix(String),
    Regex(Regex),
}

impl PathRule {
    fn new(path: &PathMatch) -> Result<Self, PermissionError> {
        let literal = |text: &String| match rule_text(text) {
            Ok(Some(literal)) => Ok(literal),
            Ok(None) => Err(PermissionError::PathNeverMatches { path: text.clone() }),
            Err(problem) => Err(PermissionError::Path { path: text.clone(), problem }),
        };
        Ok(match path {
            PathMatch::Exact(text) => Self::Exact(literal(text)?),
            PathMatch::Prefix(text) => Self::Prefix(literal(text)?),
            PathMatch::Regex(pattern) => Self::Regex(expression::of_text(pattern)?),
        })
    }

    fn judge(&self, path: &NormalPath<'_>) -> Match {
        // Some applications cut parameters off before they look, others do not: no answer is right for both.
        if path.has_parameters() {
            return Match::Unknown(Undecidable::PathParameters);
        }
        let path = path.decoded();
        Match::from(match self {
            Self::Exact(wanted) => path == wanted,
            Self::Prefix(wanted) => path.starts_with(wanted.as_str()),
            Self::Regex(regex) => regex.is_match(path),
        })
    }
}

/// Is a permission made ready for requests.
#[derive(Debug, Clone)]
pub(super) struct CompiledPermission {
    pub(super) action: Action,
    pub(super) jwt: Option<JwtRequirement>,
    methods: Vec<String>,
    path: Option<PathRule>,
    headers: Vec<HeaderRule>,
    platforms: Vec<Platform>,
    times: Option<TimeWindow>,
    /// Whether a part of it could not be compiled: then it matches nothing for sure.
    broken: bool,
}

impl CompiledPermission {
    fn new(permission: &Permission) -> Self {
        let path = permission.http.path.as_ref().map(PathRule::new).transpose();
        let headers: Vec<Result<HeaderRule, PermissionError>> =
            permission.http.headers.iter().map(|header| HeaderRule::new(header, permission.action)).collect();
        Self {
            action: permission.action,
            jwt: permission.jwt.clone(),
            broken: path.is_err() || headers.iter().any(Result::is_err),
            path: path.ok().flatten(),
            headers: headers.into_iter().flatten().collect(),
            methods: permission.http.methods.clone(),
            platforms: permission.source_platforms.clone(),
            times: permission.times.clone(),
        }
    }

    /// Holds a request against all that the permission says but for tokens.
    pub(super) fn judge<H: Headers + ?Sized, T: Tokens + ?Sized>(&self, request: &Request<'_, H, T>) -> Match {
        self.weigh(request).unwrap_or(Match::No)
    }

    /// Holds a request against all that the permission says but for tokens. One condition that fails is enough to know, and
    /// is the error.
    pub(super) fn weigh<H: Headers + ?Sized, T: Tokens + ?Sized>(
        &self,
        request: &Request<'_, H, T>,
    ) -> Result<Match, Miss<'_>> {
        if !self.methods.is_empty() && !self.methods.iter().any(|method| method == request.method) {
            return Err(Miss::Method);
        }
        if self.times.as_ref().is_some_and(|window| !window.contains(request.now)) {
            return Err(Miss::Times);
        }
        let host = request.authority.map(super::NormalAuthority::host);
        if let Some(header) = self.headers.iter().find(|header| !header.matches(request.headers, host)) {
            return Err(Miss::Header { name: header.name() });
        }
        let platform = match request.source_platform {
            _ if self.platforms.is_empty() => Match::Yes,
            Some(platform) if self.platforms.contains(&platform) => Match::Yes,
            Some(_) => return Err(Miss::SourcePlatform),
            None => Match::Unknown(Undecidable::SourcePlatform),
        };
        let path = self.path.as_ref().map_or(Match::Yes, |path| path.judge(request.path));
        if path == Match::No {
            return Err(Miss::Path);
        }
        let compiled = if self.broken { Match::Unknown(Undecidable::Permission) } else { Match::Yes };
        Ok(platform.and(path).and(compiled))
    }
}

/// Is an intention made ready for requests.
#[derive(Debug, Clone)]
pub(super) struct CompiledIntention {
    pub(super) intention: Intention,
    pub(super) key: IntentionKey,
    pub(super) permissions: Vec<CompiledPermission>,
}

/// Holds all the rules that can concern one destination, ready for requests.
#[derive(Debug, Clone)]
pub struct CompiledPolicy {
    policy: Policy,
    destination: ServiceKey,
    pub(super) default_action: Action,
    pub(super) guardrails: Vec<Guardrail>,
    pub(super) guardrail_sources: Sources,
    pub(super) intentions: Vec<CompiledIntention>,
    pub(super) intention_sources: Sources,
    /// Why denials are only logged, whichever rule denies and for as long as nobody changes it.
    pub(super) audited: Option<AuditCause>,
    /// The relaxations that concern the destination, the one that lasts longest first.
    pub(super) relaxations: Vec<(Relaxation, AuditCause)>,
    /// What a request that passes must pass, too.
    pub(super) restraint: Option<Box<CompiledPolicy>>,
}

impl CompiledPolicy {
    /// Makes the rules for one destination ready for requests.
    ///
    /// What cannot be compiled stays as a rule that cannot be decided: a request that reaches it is refused.
    #[must_use]
    pub fn new(policy: Policy, destination: ServiceKey) -> Self {
        let guardrails: Vec<Guardrail> =
            policy.guardrails.iter().filter(|one| one.destination.matches(&destination)).cloned().collect();
        let intentions: Vec<CompiledIntention> = policy
            .intentions
            .iter()
            .filter(|intention| intention.destination.matches(&destination))
            .map(CompiledIntention::new)
            .collect();
        let audited = if policy.audit.mesh {
            Some(AuditCause::Mesh)
        } else {
            policy.audit.namespaces.contains(&destination.namespace).then_some(AuditCause::Namespace)
        };
        let mut relaxations: Vec<(Relaxation, AuditCause)> = policy
            .relaxations
            .iter()
            .filter(|one| one.scope.covers(&destination))
            .map(|one| (one.clone(), AuditCause::Relaxation { scope: one.scope.clone(), ends_at: one.ends_at }))
            .collect();
        relaxations.sort_by_key(|(one, _)| std::cmp::Reverse(one.ends_at));
        let restraint =
            policy.restraint.as_ref().map(|restraint| Self::new(Policy::clone(restraint), destination.clone()));
        Self {
            restraint: restraint.map(Box::new),
            default_action: policy.default_action,
            guardrail_sources: Sources::new(guardrails.iter().map(|one| &one.source)),
            guardrails,
            intention_sources: Sources::new(intentions.iter().map(|one| &one.intention.source)),
            intentions,
            audited,
            relaxations,
            policy,
            destination,
        }
    }

    /// Returns `previous` if it was made of the same rules, or else makes them ready.
    #[must_use]
    pub fn renewed(previous: Option<&Arc<Self>>, policy: &Policy, destination: &ServiceKey) -> Arc<Self> {
        match previous {
            Some(previous) if previous.policy == *policy && previous.destination == *destination => {
                Arc::clone(previous)
            }
            _ => Arc::new(Self::new(policy.clone(), destination.clone())),
        }
    }

    /// Returns the rules that it was made of.
    #[must_use]
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Returns the service that is called.
    #[must_use]
    pub fn destination(&self) -> &ServiceKey {
        &self.destination
    }
}

impl CompiledIntention {
    fn new(intention: &Intention) -> Self {
        let permissions = match &intention.effect {
            Effect::Action(_) => Vec::new(),
            Effect::Permissions(permissions) => permissions.iter().map(CompiledPermission::new).collect(),
        };
        Self { key: intention.key(), intention: intention.clone(), permissions }
    }
}
