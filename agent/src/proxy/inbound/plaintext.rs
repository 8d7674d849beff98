//! Connections that were on their way to the application of a permissive service and were led to the mesh listener: who calls is
//! not known, and nobody looks. They pass as if there were no mesh, and are counted, unless a rule refuses everybody.

use std::net::SocketAddr;
use std::sync::Arc;

use catalog::{MtlsMode, Reason, ServiceKey};
use wire::report::{Link, Pair, PairSource};

use super::dial;
use crate::metrics::{Direction, Phase};
use crate::proxy::accept::Accepted;
use crate::proxy::copy::{Ending, Meter, reset, splice_plain};
use crate::proxy::proxy_header::Opener;
use crate::proxy::refusal::Refusal;
use crate::proxy::room::Room;
use crate::proxy::snapshot::{LocalInstance, Snapshot};

/// Says why a connection without identity does not pass.
#[derive(Debug, thiserror::Error)]
enum NotPassed {
    #[error("the agent knows nothing of the mesh yet")]
    NotReady,
    #[error("no service of this node has port {0}: register it, or leave the port out of redirection")]
    NoService(u16),
    #[error("port {1} of `{0}` takes callers with an identity only: its mTLS mode is strict")]
    Strict(ServiceKey, u16),
    #[error("refused by {0}, for the caller cannot be ruled out")]
    Denied(Reason),
    #[error("more connections than the agent takes at once")]
    Overloaded,
    #[error(transparent)]
    Application(#[from] Refusal),
}

impl NotPassed {
    fn label(&self) -> &'static str {
        match self {
            Self::NotReady => "not_ready",
            Self::NoService(_) => "no_service",
            Self::Strict(..) => "plaintext",
            Self::Denied(_) => "denied",
            Self::Overloaded => "overloaded",
            Self::Application(refusal) => refusal.label(),
        }
    }
}

/// Says whether a connection without identity, that was going to `dialled`, passes now, and to which application.
fn judge(snapshot: &Snapshot, dialled: SocketAddr) -> Result<(&ServiceKey, SocketAddr), NotPassed> {
    let (service, local) = application(snapshot, dialled).ok_or(NotPassed::NoService(dialled.port()))?;
    if !is_permissive(snapshot, service, dialled) {
        return Err(NotPassed::Strict(service.clone(), dialled.port()));
    }
    // Without its rules, nothing is decided for it.
    let policy = snapshot.policies.get(service).ok_or(NotPassed::NotReady)?;
    match policy.refuses_unknown(service) {
        Some(reason) => Err(NotPassed::Denied(reason)),
        None => Ok((service, SocketAddr::new(local.local_address, dialled.port()))),
    }
}

/// Reports whether what was going to `dialled` is a connection to a permissive service: any other has to show who it is.
pub(super) fn concerns(room: &Room, dialled: SocketAddr) -> bool {
    let Some(current) = room.current.load_full() else { return false };
    application(&current.snapshot, dialled)
        .is_some_and(|(service, _)| is_permissive(&current.snapshot, service, dialled))
}

fn is_permissive(snapshot: &Snapshot, service: &ServiceKey, dialled: SocketAddr) -> bool {
    snapshot.modes.get(service).is_some_and(|modes| modes.of_port(dialled.port()) == MtlsMode::Permissive)
}

/// Finds whose port was dialled; where several instances have it, the one whose address was.
fn application(snapshot: &Snapshot, dialled: SocketAddr) -> Option<(&ServiceKey, &LocalInstance)> {
    let all = snapshot.locals.iter().flat_map(|(service, locals)| locals.iter().map(move |local| (service, local)));
    let mut with_port = all.filter(|(_, local)| local.has_port(dialled.port())).peekable();
    let first = with_port.peek().copied();
    with_port.find(|(_, local)| local.is_advertised_at(dialled.ip())).or(first)
}

/// Carries a connection that was going to `dialled`, where it may pass.
pub(super) async fn serve(room: Arc<Room>, accepted: Accepted, dialled: SocketAddr) {
    let Accepted { stream: caller, from, permit: _permit } = accepted;
    let started = tokio::time::Instant::now();
    let admitted = admit(&room, from, dialled).await;
    let (service, application, _permit) = match admitted {
        Ok(admitted) => admitted,
        Err(why) => {
            room.metrics.refused(Direction::Inbound, Phase::Plaintext, why.label());
            tracing::info!(
                direction = "inbound", src.addr = %from, dst.addr = %dialled, reason = why.label(),
                error = %wire::one_line(&why), "connection refused"
            );
            reset(&caller);
            return;
        }
    };
    let source = PairSource::Address(from.ip().to_canonical());
    let pair = Pair { destination: service.clone(), source, link: Link::Plaintext };
    room.metrics.tally().opened(pair, room.now());
    let _open = room.metrics.carried(Direction::Inbound);
    let meter = Meter::new(Direction::Inbound, room.metrics.clone());
    let outcome = tokio::select! {
        biased;
        () = refused_since(&room, dialled) => Err("refused"),
        () = room.inbound.cut.cancelled() => Err("cut"),
        copied = splice_plain(caller, application, &meter, room.limits.half_closed_silence_max) => {
            copied.map_err(|error| Ending::Failed(error).label())
        }
    };
    let reason = outcome.err().unwrap_or("done");
    room.metrics.closed(Direction::Inbound, reason);
    tracing::info!(
        direction = "inbound", service = %service, src.addr = %from, dst.addr = %dialled, plaintext = true,
        bytes_sent = meter.sent(), bytes_recv = meter.received(), duration_s = started.elapsed().as_secs_f64(), reason,
        "connection closed"
    );
}

async fn admit(
    room: &Room,
    from: SocketAddr,
    dialled: SocketAddr,
) -> Result<(ServiceKey, tokio::net::TcpStream, tokio::sync::OwnedSemaphorePermit), NotPassed> {
    let current = room.current.load_full().ok_or(NotPassed::NotReady)?;
    let (service, address) = judge(&current.snapshot, dialled)?;
    let permit = Arc::clone(&room.stream_permits).try_acquire_owned().map_err(|_| NotPassed::Overloaded)?;
    Ok((service.clone(), dial(room, address, Opener::Stranger { from }).await?, permit))
}

/// Waits until the connection would not be let in any more.
async fn refused_since(room: &Room, dialled: SocketAddr) {
    let mut generation = room.generation.subscribe();
    generation.mark_changed();
    while generation.changed().await.is_ok() {
        if room.current.load().as_ref().is_some_and(|current| judge(&current.snapshot, dialled).is_err()) {
            return;
        }
    }
    std::future::pending().await
}

#[cfg(test)]
mod tests {
    use catalog::{Action, Guardrail, Intention, MtlsModes, Policy, PortMtlsMode};

    use super::*;
    use crate::proxy::tests::bare_snapshot;

    fn rule(text: &str) -> Intention {
        let words: Vec<&str> = text.split(' ').collect();
        Intention::new(words[1].parse().unwrap(), words[2].parse().unwrap(), words[0].parse().unwrap())
    }

    fn snapshot(mode: MtlsMode, guardrails: Vec<Guardrail>, rules: &[&str]) -> Snapshot {
        let api: ServiceKey = "api".parse().unwrap();
        let mut snapshot = bare_snapshot();
        let local = LocalInstance {
            key: catalog::InstanceKey {
                node: "vm-1".parse().unwrap(),
                namespace: api.namespace.clone(),
                id: "api-1".parse().unwrap(),
            },
            advertised_address: "10.0.0.7".to_owned(),
            local_address: [127, 0, 0, 1].into(),
            port: 8080,
            ports: Default::default(),
            takes_proxy_header: false,
        };
        snapshot.locals.insert(api.clone(), vec![local]);
        snapshot.modes.insert(api.clone(), MtlsModes::new(mode, Vec::new()));
        let rules = rules.iter().map(|text| rule(text)).collect();
        snapshot.policies.insert(api, Policy::new(Action::Deny, guardrails, rules));
        snapshot
    }

    fn check(snapshot: &Snapshot, port: u16, want: Result<&str, &str>) {
        let judged = judge(snapshot, SocketAddr::from(([10, 0, 0, 7], port)));
        let judged = judged.map(|(_, address)| address.to_string()).map_err(|why| why.label());
        assert_eq!(judged, want.map(str::to_owned));
    }

    #[test]
    fn h11_without_identity_nobody_passes_a_strict_service_and_no_rule_on_everybody() {
        check(&snapshot(MtlsMode::Strict, vec![], &["allow */* api"]), 8080, Err("plaintext"));
        let permissive = |guardrails, rules| snapshot(MtlsMode::Permissive, guardrails, rules);
        check(&permissive(vec![], &[]), 8080, Ok("127.0.0.1:8080"));
        check(&permissive(vec![], &["deny web api", "deny * api"]), 8080, Ok("127.0.0.1:8080"));
        check(&permissive(vec![], &["deny */* api"]), 8080, Err("denied"));
        check(&permissive(vec![], &["deny */* */*"]), 8080, Err("denied"));
        check(&permissive(vec![], &[]), 9090, Err("no_service"));
        let guardrail = |destination: &str| Guardrail {
            name: "g".to_owned(),
            source: "legacy/*".parse().unwrap(),
            destination: destination.parse().unwrap(),
        };
        check(&permissive(vec![guardrail("api")], &[]), 8080, Err("denied"));
        check(&permissive(vec![guardrail("db")], &[]), 8080, Ok("127.0.0.1:8080"));
        // One port may say something else than the rest.
        let mut by_port = snapshot(MtlsMode::Strict, vec![], &[]);
        let api: ServiceKey = "api".parse().unwrap();
        by_port.locals.get_mut(&api).unwrap()[0].ports = [("metrics".to_owned(), 9090)].into();
        let mode = |port, mode| vec![PortMtlsMode { port, mode }];
        by_port.modes.insert(api.clone(), MtlsModes::new(MtlsMode::Strict, mode(9090, MtlsMode::Permissive)));
        check(&by_port, 9090, Ok("127.0.0.1:9090"));
        check(&by_port, 8080, Err("plaintext"));
        by_port.modes.insert(api, MtlsModes::new(MtlsMode::Permissive, mode(9090, MtlsMode::Strict)));
        check(&by_port, 9090, Err("plaintext"));
        check(&by_port, 8080, Ok("127.0.0.1:8080"));
        let mut unknown = permissive(vec![], &[]);
        unknown.policies.clear();
        check(&unknown, 8080, Err("not_ready"));
    }
}
