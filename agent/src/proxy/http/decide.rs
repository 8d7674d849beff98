//! What the rules say of a request.

use std::sync::Arc;

use catalog::http::{CompiledPolicy, DefaultCause, NotNormal, Request, RequestRule, RequestVerdict};
use catalog::{Caller, Policy, Reason, ServiceKey, Timestamp};
use http::header::HeaderMap;
use wire::RequestFields;

use super::normal::{Lines, Normal};
use super::tokens::{Accepted, RequestTokens};
use crate::proxy::current::Current;
use crate::proxy::handshake::Connection;
use crate::proxy::refusal::Refusal;

/// Is the rules for one local service, ready for requests.
#[derive(Debug)]
pub(crate) struct Rules {
    /// What decides.
    pub(crate) compiled: Arc<CompiledPolicy>,
    /// Whether what a request says can matter, so that an open one must be remembered to be decided again.
    pub(crate) judge_requests: bool,
}

impl Rules {
    /// Makes rules ready, unless they are those that `previous` was made of.
    pub(crate) fn renewed(previous: Option<&Self>, policy: &Policy, destination: &ServiceKey) -> Self {
        let compiled = CompiledPolicy::renewed(previous.map(|previous| &previous.compiled), policy, destination);
        Self { compiled, judge_requests: policy.judges_requests() }
    }
}

/// Is what an open request said, kept for as long as it may have to be decided again.
#[derive(Debug)]
pub(crate) struct Facts {
    lines: Lines,
    headers: HeaderMap,
    accepted: Vec<Accepted>,
    /// Whether no rule concerns it.
    is_exempt: bool,
}

impl Facts {
    /// Keeps what a request says, and the tokens that let it in.
    pub(crate) fn new(lines: &Lines, headers: &HeaderMap, accepted: Vec<Accepted>) -> Arc<Self> {
        Arc::new(Self { lines: lines.clone(), headers: headers.clone(), accepted, is_exempt: false })
    }

    /// Stands in for what a request says that is let in whatever the rules are.
    pub(crate) fn exempt(lines: &Lines) -> Arc<Self> {
        Arc::new(Self { lines: lines.clone(), headers: HeaderMap::new(), accepted: Vec::new(), is_exempt: true })
    }
}

/// Asks the rules for a new request, and counts what they say.
///
/// # Errors
///
/// Why they cannot be asked.
pub(crate) fn decide_request<'p>(
    current: &'p Current,
    connection: &Connection,
    normal: &Normal<'_>,
    headers: &HeaderMap,
    tokens: &RequestTokens<'_>,
    now: Timestamp,
) -> Result<RequestVerdict<'p>, Refusal> {
    let verdict = judge(current, connection, normal, headers, tokens, now)?;
    // Whoever waits for keys is decided again, and counted then.
    if verdict.passes() || !tokens.may_wait() {
        count(current, &connection.destination, &verdict, now);
    }
    Ok(verdict)
}

/// Asks the rules for a request.
fn judge<'p>(
    current: &'p Current,
    connection: &Connection,
    normal: &Normal<'_>,
    headers: &HeaderMap,
    tokens: &RequestTokens<'_>,
    now: Timestamp,
) -> Result<RequestVerdict<'p>, Refusal> {
    let destination = &connection.destination;
    if let Some(unfit) = current.snapshot.unfit(&connection.peer) {
        return Err(Refusal::Unfit(unfit));
    }
    let rules = current.rules(destination).ok_or_else(|| Refusal::Undecidable { destination: destination.clone() })?;
    let request = Request {
        method: normal.method,
        authority: normal.authority.as_ref(),
        path: &normal.path,
        query: normal.query,
        headers: &RequestFields(headers),
        tokens,
        source_platform: connection.peer.platform,
        now,
    };
    Ok(rules.compiled.authorize_request(caller(current, connection), &request))
}

/// Counts a decision with the rule that made it.
fn count(current: &Current, destination: &ServiceKey, verdict: &RequestVerdict<'_>, now: Timestamp) {
    let Some(counts) = current.counts(destination) else { return };
    let counts = match &verdict.rule {
        RequestRule::Intention { key, permission } | RequestRule::Undecidable { key, permission, .. } => {
            counts.intention(key, *permission)
        }
        RequestRule::Guardrail { name } => counts.guardrail(name),
        RequestRule::Default { .. } | RequestRule::Unauthenticated => counts.default(),
    };
    counts.decided(verdict.passes() && verdict.audit.is_none(), now);
}

/// Turns a verdict into what follows from it.
///
/// # Errors
///
/// Which rule refuses the request.
pub(crate) fn permitted<'p>(
    verdict: RequestVerdict<'p>,
    tokens: &RequestTokens<'_>,
) -> Result<RequestVerdict<'p>, Refusal> {
    if verdict.passes() {
        return Ok(verdict);
    }
    if let RequestRule::Default { cause: DefaultCause::Token { .. }, .. } = verdict.rule {
        return Err(tokens.refusal(verdict.rule.to_string()));
    }
    Err(Refusal::NotPermitted { label: label(&verdict.rule), rule: verdict.rule.to_string() })
}

/// Decides again whether an open request may go on.
pub(crate) fn still_allows_request(
    current: &Current,
    connection: &Connection,
    facts: &Facts,
    now: Timestamp,
) -> Result<(), Refusal> {
    if facts.is_exempt {
        return Ok(());
    }
    let undecidable = |_: NotNormal| Refusal::Undecidable { destination: connection.destination.clone() };
    let normal = facts.lines.normal().map_err(undecidable)?;
    let providers = current.providers(&connection.destination);
    let tokens = RequestTokens::new(providers, &facts.headers, normal.query, now, true).of_open(&facts.accepted);
    judge(current, connection, &normal, &facts.headers, &tokens, now)
        .and_then(|verdict| permitted(verdict, &tokens))
        .map(drop)
}

/// Returns who calls. How identities are written is fixed for as long as the mesh is, so that it is read once.
fn caller<'c>(current: &Current, connection: &'c Connection) -> &'c Caller {
    connection.caller.get_or_init(|| Caller::from(current.snapshot.scheme.classify(&connection.peer.id)))
}

/// Returns the word that metrics use for a rule that refuses.
fn label(rule: &RequestRule<'_>) -> &'static str {
    match rule {
        RequestRule::Unauthenticated => "unauthenticated",
        RequestRule::Guardrail { .. } => "guardrail",
        RequestRule::Intention { permission: None, .. } => "intention",
        RequestRule::Intention { permission: Some(_), .. } => "permission",
        RequestRule::Default { cause: DefaultCause::NoIntention, .. } => "default_deny",
        RequestRule::Default { cause: DefaultCause::NoPermission { .. }, .. } => "no_permission",
        RequestRule::Default { cause: DefaultCause::Token { .. }, .. } => "no_token",
        RequestRule::Undecidable { .. } => "undecidable",
    }
}

/// Returns the rule in the words in which connections are let through on trial.
pub(crate) fn reason(rule: &RequestRule<'_>) -> Reason {
    match rule {
        RequestRule::Intention { key, .. } | RequestRule::Undecidable { key, .. } => {
            Reason::Intention { key: (*key).clone(), precedence: key.precedence() }
        }
        RequestRule::Guardrail { name } => Reason::Guardrail { name: (*name).to_owned() },
        RequestRule::Default { action, .. } => Reason::Default { action: *action },
        RequestRule::Unauthenticated => Reason::Unauthenticated,
    }
}
