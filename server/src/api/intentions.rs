//! Intentions: list, read, write, and ask what they decide.

use std::collections::BTreeMap;

use ::catalog::{
    Caller, Command, Decision, Intention, IntentionKey, Namespace, PolicyChange, ServiceKey, ServicePattern,
    SourcePattern, WatchKey, WriteMode, authorize,
};
use axum::response::Response;
use http::Method;
use wire::api_types::Explanation;
use wire::asked_request::{AskedRequest, AskedRequestError};
use wire::{consul, crypto};

use super::auth::Right;
use super::call::Call;
use super::error::ApiError;
use super::query::parameter;
use super::reads::Reading;
use super::route::{Route, route};

const PATTERN_FORM: &str = "send `name`, `namespace/name`, `*`, `namespace/*` or `*/*`";
/// With it an intention is changed whoever owns it.
const TAKE_OVER: &str = "take-over";
/// How many services one request for matches may name.
const MATCHED_MAX: usize = 64;
const SERVICE_FORM: &str = "send `name` or `namespace/name` of one service";

pub(super) fn routes() -> Vec<Route> {
    vec![
        route(Method::GET, "/v1/connect/intentions", Right::Judged, list).answers("[Intention]"),
        route(Method::GET, "/v1/connect/intentions/exact", Right::Judged, read)
            .reads(&["source", "destination"])
            .answers("Intention"),
        route(Method::PUT, "/v1/connect/intentions/exact", Right::Judged, write)
            .reads(&["source", "destination", "cas", "take-over"])
            .takes("Intention")
            .answers("bool"),
        route(Method::DELETE, "/v1/connect/intentions/exact", Right::Judged, delete)
            .reads(&["source", "destination", "cas", "owner", "take-over"])
            .answers("bool"),
        route(Method::GET, "/v1/connect/intentions/match", Right::Judged, matching)
            .reads(&["by", "name"])
            .answers("{[Intention]}"),
        route(Method::GET, "/v1/connect/intentions/check", Right::Judged, check)
            .reads(&["source", "destination"])
            .answers("CheckAnswer"),
        route(Method::GET, "/v1/connect/intentions/explain", Right::Judged, explanation)
            .reads(&["source", "destination", "method", "path", "host", "header", "jwt", "platform"])
            .answers("Explanation"),
    ]
}

/// Answers with every intention in the order in which they are tried.
///
/// `ns` asks for those whose destination is written with that namespace. Without it all are shown: a reader who has no
/// namespaces in mind must not miss the one on `*/*` that decides.
async fn list(call: Call) -> Result<Response, ApiError> {
    let wanted = match call.query.get("ns") {
        None | Some("*") => None,
        Some(_) => Some(call.namespace()?),
    };
    let reading = call.read(vec![WatchKey::Intentions]).await?;
    let is_wanted = |intention: &&Intention| {
        wanted.as_ref().is_none_or(|namespace| intention.destination.namespace_text() == namespace.as_str())
    };
    let intentions = reading.catalog.intentions().filter(is_wanted).filter(|intention| reading.shows(intention));
    let intentions: Vec<_> = intentions.map(consul::Intention::from).collect();
    call.answer(&reading, &intentions)
}

/// Answers with the intention on exactly the pair of patterns that the query writes.
async fn read(call: Call) -> Result<Response, ApiError> {
    let key = call.intention_key()?;
    let reading = call.read(vec![WatchKey::Destination(key.destination.clone())]).await?;
    if !reading.authority.intention_read(&key.source, &key.destination) {
        return Err(call.denied(format_args!("`intentions = \"read\"` on {} or on {}", key.source, key.destination)));
    }
    match reading.catalog.intention(&key) {
        Some(intention) => call.answer(&reading, &consul::Intention::from(intention)),
        None => Ok(call.not_found(&reading, "intention", &key)),
    }
}

/// Writes the intention on the pair that the query names; `cas` makes it conditional. One that belongs to another owner than
/// the body names is refused, unless `take-over` is sent.
///
/// Consul has no `cas` here, so no client expects its `false` with a status of success: one that was overtaken is
/// refused with 409. Config entries answer as Consul does.
async fn write(call: Call) -> Result<Response, ApiError> {
    let key = call.intention_key()?;
    call.may_write_intention(&key)?;
    let request: consul::IntentionRequest = call.decode()?;
    let intention = request.into_intention(&key).map_err(|error| call.body_error(&error))?;
    let mode = call.compare()?.map_or(WriteMode::Upsert, WriteMode::CompareAndSet);
    let intention = Box::new(intention);
    let command = if call.query.flag(TAKE_OVER)? {
        Command::Policy { change: PolicyChange::TakeOver { intention, mode } }
    } else {
        Command::WriteIntention { intention, mode }
    };
    call.write(command).await?;
    call.json(&true)
}

/// Removes the intention on the pair that the query names; `cas` and `take-over` as in [`write`]. `owner` says in whose name.
async fn delete(call: Call) -> Result<Response, ApiError> {
    let key = call.intention_key()?;
    call.may_write_intention(&key)?;
    let compare = call.compare()?;
    let (owner, take_over) = (call.owner()?, call.query.flag(TAKE_OVER)?);
    let command = if owner.is_some() || take_over {
        Command::Policy { change: PolicyChange::DeleteOwned { key, compare, owner, take_over } }
    } else {
        Command::DeleteIntention { key, compare }
    };
    call.write(command).await?;
    call.json(&true)
}

/// Which side of an intention a query asks about.
#[derive(Clone, Copy)]
enum Side {
    Source,
    Destination,
}

/// Answers, for each name, with the intentions that speak of the service on the side that `by` says.
async fn matching(call: Call) -> Result<Response, ApiError> {
    let side = match call.query.required("by", "send `source` or `destination`")? {
        "source" => Side::Source,
        "destination" => Side::Destination,
        other => return Err(parameter("by", other, "send `source` or `destination`")),
    };
    call.query.required("name", SERVICE_FORM)?;
    let names: Vec<&str> = call.query.all("name").filter(|name| !name.is_empty()).collect();
    if names.len() > MATCHED_MAX {
        let reason = format!("it is sent {} times: ask for at most {MATCHED_MAX} services at once", names.len());
        return Err(parameter("name", names[MATCHED_MAX], reason));
    }
    let namespace = call.namespace()?;
    let services =
        names.iter().map(|name| service("name", name, &namespace)).collect::<Result<Vec<ServiceKey>, ApiError>>()?;
    let keys = match side {
        Side::Source => vec![WatchKey::Intentions],
        Side::Destination => services.iter().flat_map(ServicePattern::covering).map(WatchKey::Destination).collect(),
    };
    let reading = call.read(keys).await?;
    for service in &services {
        if !reading.authority.intentions_of_read(service) {
            return Err(call.denied(format_args!("`intentions = \"read\"` on {service}")));
        }
    }
    let speaks_of = |intention: &Intention, service: &ServiceKey| match (side, &intention.source) {
        (Side::Destination, _) => intention.destination.matches(service),
        (Side::Source, SourcePattern::Service(pattern)) => pattern.matches(service),
        (Side::Source, SourcePattern::Spiffe(_)) => false,
    };
    // Sorted once, however many are asked for.
    let ordered: Vec<&Intention> = reading.catalog.intentions().collect();
    let matches: BTreeMap<&str, Vec<consul::Intention>> = names
        .iter()
        .zip(&services)
        .map(|(name, service)| {
            let found = ordered.iter().copied().filter(|intention| speaks_of(intention, service));
            let found = found.filter(|intention| reading.shows(intention));
            (*name, found.map(consul::Intention::from).collect())
        })
        .collect();
    call.answer(&reading, &matches)
}

/// Answers whether a connection would be let through. What is decided by request counts as denied, as Consul has it.
async fn check(call: Call) -> Result<Response, ApiError> {
    let (source, destination) = call.pair()?;
    let reading = call.read(WatchKey::policy_of(&destination)).await?;
    // The answer is yes or no and names no rule, so that finding the destination is enough, as Consul has it.
    if !reading.authority.service_read(&destination) {
        return Err(call.denied(format_args!("`service:read` on {destination}")));
    }
    let policy = reading.catalog.policy_for(&destination);
    let verdict = authorize(&policy, &Caller::Service(source), &destination, crypto::now());
    call.answer(&reading, &consul::CheckAnswer { allowed: verdict.decision == Decision::Allow })
}

/// Answers what is decided and why, with every intention that was weighed: of a connection, or of the request that the other
/// parameters describe.
async fn explanation(call: Call) -> Result<Response, ApiError> {
    let (source, destination) = call.pair()?;
    let mut keys = WatchKey::policy_of(&destination);
    keys.push(WatchKey::Config);
    let reading = call.read(keys).await?;
    if !reading.authority.intentions_of_read(&destination) {
        return Err(call.denied(format_args!("`intentions = \"read\"` on {destination}")));
    }
    let unfit = |error: AskedRequestError| ApiError::Query { reason: error.to_string() };
    let request = AskedRequest::from_parameters(call.query.pairs()).map_err(unfit)?;
    let explanation = Explanation::of(&reading.catalog, &source, &destination, request.as_ref(), crypto::now());
    call.answer(&reading, &explanation.map_err(unfit)?)
}

impl Reading {
    /// Reports whether the caller may see an intention, and notes it where it may not.
    pub(super) fn shows(&self, intention: &Intention) -> bool {
        self.keeps(self.authority.intention_read(&intention.source, &intention.destination))
    }
}

impl Call {
    /// Checks that the caller may write an intention: the right on the destination decides.
    fn may_write_intention(&self, key: &IntentionKey) -> Result<(), ApiError> {
        let needs = format!("`intentions = \"write\"` on {}", key.destination);
        self.may(needs, |authority| authority.intention_write(&key.destination))
    }

    /// Reads the pair of patterns that `source` and `destination` write.
    fn intention_key(&self) -> Result<IntentionKey, ApiError> {
        let namespace = self.namespace()?;
        let source = self.query.required("source", PATTERN_FORM)?;
        let destination = self.query.required("destination", PATTERN_FORM)?;
        let reason = |error: &dyn std::fmt::Display| format!("{PATTERN_FORM}: {error}");
        Ok(IntentionKey {
            source: SourcePattern::parse(source, &namespace)
                .map_err(|error| parameter("source", source, reason(&error)))?,
            destination: ServicePattern::parse(destination, &namespace)
                .map_err(|error| parameter("destination", destination, reason(&error)))?,
        })
    }

    /// Reads the two services that `source` and `destination` name.
    fn pair(&self) -> Result<(ServiceKey, ServiceKey), ApiError> {
        let namespace = self.namespace()?;
        let source = service("source", self.query.required("source", SERVICE_FORM)?, &namespace)?;
        let destination = service("destination", self.query.required("destination", SERVICE_FORM)?, &namespace)?;
        Ok((source, destination))
    }
}

/// Reads the name of one service; a name alone is of the namespace `current`.
fn service(name: &'static str, text: &str, current: &Namespace) -> Result<ServiceKey, ApiError> {
    match ServicePattern::parse(text, current) {
        Ok(ServicePattern::Exact(key)) => Ok(key),
        Ok(_) => Err(parameter(name, text, SERVICE_FORM)),
        Err(error) => Err(parameter(name, text, format!("{SERVICE_FORM}: {error}"))),
    }
}
