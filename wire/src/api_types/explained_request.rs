//! What is decided of a request that somebody asks about, as the API shows it.

use catalog::http::{CompiledPolicy, PermissionOutcome, RequestExplanation, WeighedIntention};
use catalog::{Action, Caller, CandidateOutcome, Catalog, ServiceKey, Timestamp, explain};
use serde::{Deserialize, Serialize};

use super::Explanation;
use crate::asked_request::{AskedRequest, AskedRequestError};

/// Shows what is decided of a request, by which rule, and why each other one did not decide.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ExplainedRequest {
    /// The method.
    pub method: String,
    /// The path in its normal form, as rules see it and as it is sent on.
    pub path: String,
    /// Whether the request is allowed.
    pub decision: Action,
    /// The rule that decided, in words.
    pub reason: String,
    /// Why a denial is only logged and counted, in words; empty where it is not.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub audited_by: String,
    /// The intention that would decide if the one that does were not there, and what it says; empty where there is none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub runner_up: String,
    /// The intentions that speak of the destination, in the order in which they are tried.
    pub intentions: Vec<WeighedRule>,
}

/// Shows what became of an intention and of its permissions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct WeighedRule {
    /// Who calls, as it is written.
    pub source: String,
    /// The services that are called, as they are written.
    pub destination: String,
    /// Its precedence, 9 to 1.
    pub precedence: u8,
    /// What became of it.
    pub outcome: CandidateOutcome,
    /// What it says of the request, or would say; empty where it does not speak of the caller.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub says: String,
    /// What became of its permissions, in their order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub permissions: Vec<String>,
}

impl Explanation {
    /// Explains a call by what a catalog holds, and a request of it where one is described.
    ///
    /// # Errors
    ///
    /// [`AskedRequestError`] if the request has no normal form, or nobody reads requests toward the destination.
    pub fn of(
        catalog: &Catalog,
        source: &ServiceKey,
        destination: &ServiceKey,
        request: Option<&AskedRequest>,
        now: Timestamp,
    ) -> Result<Self, AskedRequestError> {
        let policy = catalog.policy_for(destination);
        let caller = Caller::Service(source.clone());
        let explained = Self::new(source, destination, &explain(&policy, &caller, destination, now));
        let Some(request) = request else { return Ok(explained) };
        let protocol = catalog.protocol_of(destination);
        if !protocol.is_http() {
            return Err(AskedRequestError::NotRead { destination: destination.clone(), protocol });
        }
        let compiled = CompiledPolicy::new(policy, destination.clone());
        let request = request.explain(&compiled, &caller, now, |explanation, path| {
            ExplainedRequest::new(request.method(), path, explanation)
        })?;
        Ok(Self { request: Some(request), ..explained })
    }

    /// Returns what is decided: of the request where one was described, else of a connection.
    pub fn answer(&self) -> &'static str {
        match &self.request {
            Some(request) => request.decision.as_str(),
            None => self.decision.as_str(),
        }
    }

    /// Returns the rule that decided, in words.
    pub fn rule(&self) -> &str {
        self.request.as_ref().map_or(&self.reason, |request| &request.reason)
    }
}

impl ExplainedRequest {
    fn new(method: &str, path: &str, explanation: &RequestExplanation<'_>) -> Self {
        let verdict = &explanation.verdict;
        let runner_up = explanation.runner_up().map(|one| format!("intention {}: {}", one.intention.key(), says(one)));
        Self {
            method: method.to_owned(),
            path: path.to_owned(),
            decision: verdict.decision,
            reason: verdict.rule.to_string(),
            audited_by: verdict.audit.map(ToString::to_string).unwrap_or_default(),
            runner_up: runner_up.unwrap_or_default(),
            intentions: explanation.intentions.iter().map(WeighedRule::new).collect(),
        }
    }
}

impl WeighedRule {
    fn new(weighed: &WeighedIntention<'_>) -> Self {
        let intention = weighed.intention;
        let numbered = |(at, outcome): (usize, &PermissionOutcome<'_>)| format!("permissions[{at}]: {outcome}");
        Self {
            source: intention.source.to_string(),
            destination: intention.destination.to_string(),
            precedence: intention.precedence(),
            outcome: weighed.outcome,
            says: says(weighed),
            permissions: weighed.permissions.iter().enumerate().map(numbered).collect(),
        }
    }
}

fn says(weighed: &WeighedIntention<'_>) -> String {
    weighed.says.map(|(action, rule)| format!("{action} ({rule})")).unwrap_or_default()
}
