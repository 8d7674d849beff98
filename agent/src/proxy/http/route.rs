//! What a route does to a request on its way: its target, its headers, and who is asked again.

use std::time::Duration;

use catalog::http::NotNormal;
use catalog::{Fault, HeaderEdits, RetryOn, RetryRule, RoutedRequest, Routes, Turn};
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::uri::PathAndQuery;
use http::{Response, StatusCode};
use wire::RequestFields;

use super::normal::{Lines, Normal};
use super::refusal::NotCarried;
use crate::proxy::outbound::call_error::CallError;

/// How long is waited at most before the first repetition; twice as long before each further one.
const PAUSE: Duration = Duration::from_millis(25);

/// Finds where a request goes.
pub(crate) fn choose<'r>(
    routes: &'r Routes,
    normal: &Normal<'_>,
    headers: &HeaderMap,
    draw: u64,
) -> Result<Turn<'r>, CallError> {
    let request = RoutedRequest {
        method: normal.method,
        path: &normal.path,
        query: normal.query,
        host: normal.authority.as_ref().map(|authority| authority.host()),
        headers: &RequestFields(headers),
    };
    routes.choose(&request, draw).ok_or(CallError::NoRoute)
}

/// Returns the target that a request goes on with.
pub(crate) fn target(turn: Turn<'_>, lines: &Lines, normal: &Normal<'_>) -> Result<PathAndQuery, NotNormal> {
    let Some(path) = turn.action.and_then(|action| action.rewritten(normal.path.as_str())) else {
        return lines.target(normal);
    };
    let text = match normal.query {
        Some(query) => format!("{path}?{query}"),
        None => path,
    };
    PathAndQuery::try_from(text).map_err(|_| NotNormal::Target)
}

/// Reports whether a draw falls within a share, in hundredths of a percent.
pub(crate) fn is_drawn(share: u16, draw: u64) -> bool {
    draw % 10_000 < u64::from(share)
}

/// Holds a request up, or refuses it, as far as it is drawn for that.
pub(crate) async fn suffer(fault: &Fault, draw: impl Fn() -> u64) -> Result<(), NotCarried> {
    if let Some(delay) = fault.delay.filter(|delay| is_drawn(delay.share, draw())) {
        tokio::time::sleep(Duration::from_millis(delay.delay_ms)).await;
    }
    match fault.abort.filter(|abort| is_drawn(abort.share, draw())) {
        Some(abort) => Err(NotCarried::Fault(abort.status)),
        None => Ok(()),
    }
}

/// Changes the headers of a message.
pub(crate) fn edit(headers: &mut HeaderMap, edits: &HeaderEdits) {
    // Names and values were looked at when they were written; one that is none after all changes nothing.
    let line = |(name, value): (&String, &String)| {
        let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
        Some((name, HeaderValue::from_str(value).ok()?))
    };
    for name in &edits.remove {
        headers.remove(name.as_str());
    }
    for (name, value) in edits.set.iter().filter_map(line) {
        headers.insert(name, value);
    }
    for (name, value) in edits.add.iter().filter_map(line) {
        headers.append(name, value);
    }
}

/// Reports whether another instance is asked after this answer.
pub(crate) fn is_repeated_after_answer<B>(rule: &RetryRule, answer: &Response<B>) -> bool {
    let status = answer.status();
    let is_gateways = [StatusCode::BAD_GATEWAY, StatusCode::SERVICE_UNAVAILABLE, StatusCode::GATEWAY_TIMEOUT];
    rule.on_status.contains(&status.as_u16())
        || (rule.on.contains(&RetryOn::ServerError) && status.is_server_error())
        || (rule.on.contains(&RetryOn::GatewayError) && is_gateways.contains(&status))
}

/// Reports whether another instance is asked after this failure.
pub(crate) fn is_repeated_after_failure(rule: &RetryRule, why: &NotCarried) -> bool {
    match why {
        NotCarried::Tunnel(_) => rule.on.contains(&RetryOn::Reset) || rule.on.contains(&RetryOn::ServerError),
        // To `5xx` an instance that is not reached is one that fails, as it is to Envoy.
        NotCarried::Call(error) => {
            let is_named = [RetryOn::ConnectFailure, RetryOn::ServerError].iter().any(|on| rule.on.contains(on));
            is_named && error.may_be_better_elsewhere()
        }
        _ => false,
    }
}

/// Returns how long is waited before a repetition, the first being number 0; `draw` is any number.
pub(crate) fn pause(number: u32, draw: u64) -> Duration {
    let most = PAUSE.saturating_mul(2_u32.saturating_pow(number.min(5)));
    let part = u32::try_from(draw >> 32).unwrap_or(u32::MAX);
    most.mul_f64(f64::from(part) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_end() {
        assert_eq!(pause(0, 0), Duration::ZERO);
        assert_eq!(pause(0, u64::MAX), PAUSE);
        assert_eq!(pause(2, u64::MAX), PAUSE * 4);
        assert_eq!(pause(100, u64::MAX), PAUSE * 32);
    }

    #[test]
    fn what_is_repeated_is_what_the_rule_names() {
        let rule = |on: &[RetryOn], status: &[u16]| RetryRule {
            attempts: 1,
            on: on.iter().copied().collect(),
            on_status: status.iter().copied().collect(),
        };
        let answer = |status: u16| Response::builder().status(status).body(()).unwrap();
        for (rule, status, want) in [
            (rule(&[RetryOn::ServerError], &[]), 500, true),
            (rule(&[RetryOn::ServerError], &[]), 429, false),
            (rule(&[RetryOn::GatewayError], &[]), 500, false),
            (rule(&[RetryOn::GatewayError], &[]), 503, true),
            (rule(&[], &[429]), 429, true),
            (rule(&[RetryOn::Reset], &[]), 503, false),
        ] {
            assert_eq!(is_repeated_after_answer(&rule, &answer(status)), want, "{rule:?} {status}");
        }
        let reset = NotCarried::Tunnel(h2::Error::from(h2::Reason::CANCEL));
        assert!(is_repeated_after_failure(&rule(&[RetryOn::Reset], &[]), &reset));
        assert!(!is_repeated_after_failure(&rule(&[RetryOn::GatewayError], &[503]), &reset));
        let unreached = |address: &str| {
            let (address, deadline) = (address.to_owned(), Duration::from_secs(8));
            NotCarried::Call(CallError::NoAnswer { address, deadline })
        };
        for (on, want) in [
            (RetryOn::ServerError, true),
            (RetryOn::ConnectFailure, true),
            (RetryOn::Reset, false),
            (RetryOn::GatewayError, false),
        ] {
            assert_eq!(is_repeated_after_failure(&rule(&[on], &[]), &unreached("10.0.0.1:20000")), want, "{on:?}");
            assert!(!is_repeated_after_failure(&rule(&[on], &[]), &NotCarried::Call(CallError::NoRoute)), "{on:?}");
        }
    }

    #[test]
    fn headers_are_removed_then_set_then_added() {
        let pairs = |all: &[(&str, &str)]| all.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        let edits = HeaderEdits {
            add: pairs(&[("x-b", "2")]),
            set: pairs(&[("x-a", "new")]),
            remove: ["x-c".to_owned()].into(),
        };
        let mut headers = HeaderMap::new();
        for (name, value) in [("x-a", "old"), ("x-b", "1"), ("x-c", "gone"), ("x-d", "stays")] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        edit(&mut headers, &edits);
        let mut left: Vec<String> =
            headers.iter().map(|(name, value)| format!("{name}={}", value.to_str().unwrap())).collect();
        left.sort();
        assert_eq!(left, ["x-a=new", "x-b=1", "x-b=2", "x-d=stays"]);
    }
}
