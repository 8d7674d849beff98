//! Names of others: passed on to whom the operator named, or refused.

use std::net::SocketAddr;
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{Name, RecordType};
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::{Resolver, TokioResolver};
use tokio::sync::Semaphore;

use super::answer::Answer;

/// How long whoever asks waits for an answer, however many are asked for it.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long one of them has for it.
const PATIENCE_EACH: Duration = Duration::from_millis(900);
/// How many questions are passed on at once.
const UNDER_WAY_MAX: usize = 128;
/// How many answers are remembered.
const REMEMBERED_MAX: u64 = 1024;

/// Passes questions on.
pub(super) struct Forwarder {
    resolver: TokioResolver,
    under_way: Semaphore,
}

impl Forwarder {
    /// Makes one that asks these; none where there are none.
    pub(super) fn new(recursors: &[SocketAddr]) -> Option<Self> {
        if recursors.is_empty() {
            return None;
        }
        let servers = recursors.iter().map(|recursor| {
            let at = |connection: ConnectionConfig| {
                let mut connection = connection;
                connection.port = recursor.port();
                connection
            };
            let mut server = NameServerConfig::udp_and_tcp(recursor.ip());
            server.connections = vec![at(ConnectionConfig::udp()), at(ConnectionConfig::tcp())];
            server
        });
        let config = ResolverConfig::from_parts(None, Vec::new(), servers.collect());
        let mut builder = Resolver::builder_with_config(config, TokioRuntimeProvider::default());
        let options = builder.options_mut();
        options.timeout = PATIENCE_EACH;
        options.attempts = 2;
        options.ndots = 0;
        options.cache_size = REMEMBERED_MAX;
        options.use_hosts_file = ResolveHosts::Never;
        // Whoever guesses an answer must guess the letters' case, too, besides the port and the number.
        options.case_randomization = true;
        options.os_port_selection = false;
        options.edns0 = true;
        let resolver = builder.build();
        match resolver {
            Ok(resolver) => Some(Self { resolver, under_way: Semaphore::new(UNDER_WAY_MAX) }),
            Err(error) => {
                tracing::error!(
                    error = wire::one_line(&error),
                    "other names are refused: nobody can be asked for them"
                );
                None
            }
        }
    }

    /// Asks for a name of others. Nothing but what answers the question itself is passed on.
    pub(super) async fn ask(&self, name: &Name, asked: RecordType) -> Answer {
        let failed = Answer { code: ResponseCode::ServFail, ..Answer::default() };
        let Ok(_turn) = self.under_way.try_acquire() else { return failed };
        match tokio::time::timeout(PATIENCE, self.resolver.lookup(name.clone(), asked)).await {
            Ok(Ok(found)) => Answer { records: found.answers().to_vec(), ..Answer::default() },
            Ok(Err(NetError::Dns(DnsError::NoRecordsFound(nothing)))) => {
                let authority = nothing.soa.map(|soa| soa.into_record_of_rdata());
                Answer { code: nothing.response_code, authority, ..Answer::default() }
            }
            Ok(Err(error)) => {
                tracing::debug!(error = wire::one_line(&error), "nobody answered for a name of others");
                failed
            }
            Err(_) => failed,
        }
    }
}

impl std::fmt::Debug for Forwarder {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Forwarder").finish_non_exhaustive()
    }
}
