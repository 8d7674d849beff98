//! What a server is told when it starts.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use catalog::{PathTemplate, ServerId, TrustDomain};
use wire::api_name::ApiName;
use wire::cluster_key::ClusterKeys;
use wire::login::LoginMaker;

use crate::raft::Limits;
use crate::sessions::Periods;

/// Most servers that one cluster is bootstrapped with: more voters make every write slower and hardly safer.
pub const BOOTSTRAP_EXPECT_MAX: usize = 9;

/// Is everything that a server is told when it starts.
#[derive(Debug, Clone)]
pub struct Config {
    /// The server's name, unique in the cluster.
    pub node: ServerId,
    /// Where it keeps its log; none keeps everything in memory, for development.
    pub data_dir: Option<PathBuf>,
    /// The address that the Raft port and the agents' port listen on.
    pub bind: IpAddr,
    /// The address that others reach this server at, where it is not `bind`.
    pub advertise: Option<IpAddr>,
    /// The HTTP API's port on loopback; 0 takes a free one.
    pub http_port: u16,
    /// The HTTP API over TLS, where others than this machine may call it; none leaves it off.
    pub https: Option<Https>,
    /// The agents' port; 0 takes a free one.
    pub agent_port: u16,
    /// The port between servers; 0 takes a free one.
    pub raft_port: u16,
    /// How many servers found each other make a new cluster; 0 makes none, but joins the one that `retry_join` leads to.
    /// Without effect once the server belongs to one.
    pub bootstrap_expect: usize,
    /// The Raft addresses of other servers, as `host:port`; this server's own may be among them.
    pub retry_join: Vec<String>,
    /// The secret that the servers share.
    pub cluster_keys: ClusterKeys,
    /// The datacenter's name, fixed when the cluster is bootstrapped.
    pub datacenter: String,
    /// The authority of every identity, fixed when the cluster is bootstrapped; none is `<cluster id>.weft`.
    pub trust_domain: Option<TrustDomain>,
    /// The shape of workload identities, fixed when the cluster is bootstrapped.
    pub path_template: PathTemplate,
    /// How long leaf certificates live.
    pub leaf_ttl: Duration,
    /// How long an agent may be without a session before its node turns critical.
    pub session_grace: Duration,
    /// How long after that its node leaves the catalog.
    pub session_reap: Duration,
    /// How many log entries are applied between two snapshots. Half as many stay in the log for servers that were away.
    pub snapshot_entries: u64,
    /// What knows the types of auth methods that platforms bring.
    pub login_makers: Vec<Arc<dyn LoginMaker>>,
    /// The clocks of Raft and of what waits for it.
    pub timing: RaftTiming,
}

/// Says how the HTTP API is served over TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Https {
    /// The port on `bind`; 0 takes a free one.
    pub port: u16,
    /// The names that the API is asked under, besides the advertised address.
    pub names: Vec<ApiName>,
    /// The operator's own certificate; without it the mesh's authority signs one for the names.
    pub files: Option<CertificateFiles>,
}

/// Names the files of a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The chain in PEM, the server's own certificate first.
    pub certificate: PathBuf,
    /// The private key in PEM, in a file of mode 0600.
    pub key: PathBuf,
}

impl Config {
    /// How long leaves live where nothing else is said.
    pub const LEAF_TTL: Duration = Duration::from_secs(24 * 60 * 60);

    /// Returns what `weft server` starts with where nothing else is said: loopback, free ports, in memory, alone.
    #[must_use]
    pub fn new(node: ServerId, cluster_keys: ClusterKeys) -> Self {
        Self {
            node,
            data_dir: None,
            bind: IpAddr::from([127, 0, 0, 1]),
            advertise: None,
            http_port: 0,
            https: None,
            agent_port: 0,
            raft_port: 0,
            bootstrap_expect: 1,
            retry_join: Vec::new(),
            cluster_keys,
            datacenter: "dc1".to_owned(),
            trust_domain: None,
            path_template: PathTemplate::default(),
            leaf_ttl: Self::LEAF_TTL,
            session_grace: Duration::from_secs(10),
            session_reap: Duration::from_secs(60 * 60),
            snapshot_entries: Limits::default().snapshot_entries,
            login_makers: Vec::new(),
            timing: RaftTiming::default(),
        }
    }

    /// Returns the address that others reach this server at; none where neither setting names one.
    pub(crate) fn advertised(&self) -> Option<IpAddr> {
        self.advertise.or_else(|| (!self.bind.is_unspecified()).then_some(self.bind))
    }

    /// Returns how long agents may be away.
    pub(crate) fn periods(&self) -> Periods {
        Periods { grace: self.session_grace, reap: self.session_reap, leaf_ttl: self.leaf_ttl }
    }

    /// Checks what can be checked without touching the machine.
    ///
    /// # Errors
    /// [`ConfigError`], naming the setting.
    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        let joins_only = self.bootstrap_expect == 0 && !self.retry_join.is_empty();
        if !joins_only && !(1..=BOOTSTRAP_EXPECT_MAX).contains(&self.bootstrap_expect) {
            return Err(ConfigError::BootstrapExpect { found: self.bootstrap_expect });
        }
        if self.advertised().is_none() {
            return Err(ConfigError::NothingToAdvertise { bind: self.bind });
        }
        let is_label = (1..=63).contains(&self.datacenter.len())
            && self.datacenter.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !self.datacenter.starts_with('-')
            && !self.datacenter.ends_with('-');
        if !is_label {
            return Err(ConfigError::Datacenter { found: self.datacenter.clone() });
        }
        if self.leaf_ttl < LEAF_TTL_MIN || self.leaf_ttl > LEAF_TTL_MAX {
            return Err(ConfigError::LeafTtl { found: self.leaf_ttl });
        }
        if self.session_grace < SESSION_GRACE_MIN || self.session_grace > SESSION_GRACE_MAX {
            return Err(ConfigError::SessionGrace { found: self.session_grace });
        }
        if self.session_reap < SESSION_GRACE_MIN {
            return Err(ConfigError::SessionReap { found: self.session_reap });
        }
        if self.snapshot_entries < SNAPSHOT_ENTRIES_MIN {
            return Err(ConfigError::SnapshotEntries { found: self.snapshot_entries });
        }
        match self.retry_join.iter().find(|address| !has_port(address)) {
            Some(address) => Err(ConfigError::RetryJoin { found: address.clone() }),
            None => Ok(()),
        }
    }
}

/// With fewer a busy server would do nothing else but write snapshots.
const SNAPSHOT_ENTRIES_MIN: u64 = 16;
/// An agent that changes servers is away for a moment.
const SESSION_GRACE_MIN: Duration = Duration::from_secs(1);
const SESSION_GRACE_MAX: Duration = Duration::from_secs(60 * 60);
const LEAF_TTL_MIN: Duration = Duration::from_secs(1);
const LEAF_TTL_MAX: Duration = Duration::from_secs(90 * 24 * 60 * 60);

fn has_port(address: &str) -> bool {
    address.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|p| p != 0))
}

/// Explains which setting a server cannot start with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Nobody would ever be enough, or too many would be needed.
    #[error(
        "bootstrap_expect is {found}: set it to the number of servers, 1 to {BOOTSTRAP_EXPECT_MAX}; 3 or 5 survive a failure"
    )]
    BootstrapExpect {
        /// The setting.
        found: usize,
    },
    /// The server listens everywhere and so has no address to tell others.
    #[error("bind is {bind}, which others cannot dial: set advertise to the address that they reach this server at")]
    NothingToAdvertise {
        /// The setting.
        bind: IpAddr,
    },
    /// The datacenter is part of DNS names and of TLS server names.
    #[error("datacenter is `{}`: use 1 to 63 of a-z, 0-9 and `-`, with no `-` at either end", found.escape_debug())]
    Datacenter {
        /// The setting.
        found: String,
    },
    /// Leaves would be useless or outlive their intermediate.
    #[error("leaf_ttl is {found:?}: set it between {LEAF_TTL_MIN:?} and 90 days")]
    LeafTtl {
        /// The setting.
        found: Duration,
    },
    /// Every change of servers would count as a loss, or none ever.
    #[error("session_grace is {found:?}: set it between {SESSION_GRACE_MIN:?} and an hour")]
    SessionGrace {
        /// The setting.
        found: Duration,
    },
    /// Nodes would leave before anybody could see that they are critical.
    #[error("session_reap is {found:?}: set it to {SESSION_GRACE_MIN:?} or more")]
    SessionReap {
        /// The setting.
        found: Duration,
    },
    /// Snapshots would follow one another without a pause.
    #[error("snapshot_entries is {found}: set it to {SNAPSHOT_ENTRIES_MIN} or more")]
    SnapshotEntries {
        /// The setting.
        found: u64,
    },
    /// An address without a port.
    #[error("retry_join names `{}`: write the Raft address of a server as host:port, such as 10.0.0.1:8301", found.escape_debug())]
    RetryJoin {
        /// The address.
        found: String,
    },
}

/// Is how fast Raft's clocks run and how long others wait for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RaftTiming {
    /// The length of one tick.
    pub tick: Duration,
    /// Ticks between a leader's heartbeats.
    pub heartbeat_ticks: usize,
    /// Ticks without a leader before a server stands for election; each election draws one to two times this.
    pub election_ticks: usize,
    /// Time between attempts to reach servers that have not been met yet.
    pub join_retry: Duration,
    /// How long a write is carried from leader to leader before it fails.
    pub write_deadline: Duration,
    /// How long a linearizable read waits for a leader before it fails.
    pub read_deadline: Duration,
}

impl Default for RaftTiming {
    fn default() -> Self {
        Self {
            tick: Duration::from_millis(100),
            heartbeat_ticks: 1,
            election_ticks: 10,
            join_retry: Duration::from_millis(500),
            write_deadline: Duration::from_secs(10),
            read_deadline: Duration::from_secs(10),
        }
    }
}

impl RaftTiming {
    /// Returns clocks for servers on one machine: a leader's loss is noticed in a fifth of the usual time.
    #[must_use]
    pub fn fast() -> Self {
        Self { tick: Duration::from_millis(20), join_retry: Duration::from_millis(50), ..Self::default() }
    }

    /// Returns the shortest time without a leader after which a server stands for election.
    pub(crate) fn election_timeout(&self) -> Duration {
        self.tick.saturating_mul(u32::try_from(self.election_ticks).unwrap_or(u32::MAX))
    }
}

/// Returns the address that this machine is reached at where `bind` is every address: the one that its default route
/// begins from. A container learns its own only once it runs.
pub fn routed_address(bind: IpAddr) -> Option<IpAddr> {
    // Nothing is sent: connecting a datagram socket only asks the routing table. Both addresses are for documentation.
    let elsewhere = match bind {
        IpAddr::V4(all) if all.is_unspecified() => "192.0.2.1:9",
        IpAddr::V6(all) if all.is_unspecified() => "[2001:db8::1]:9",
        _ => return None,
    };
    let socket = std::net::UdpSocket::bind((bind, 0)).ok()?;
    socket.connect(elsewhere).ok()?;
    socket.local_addr().ok().map(|address| address.ip()).filter(|own| !own.is_unspecified() && !own.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Config {
        Config::new("a".parse().unwrap(), ClusterKeys::single(ClusterKey::generate()))
    }

    #[test]
    fn only_where_a_server_listens_on_all_addresses_one_has_to_be_found() {
        assert_eq!(routed_address(IpAddr::from([10, 0, 0, 1])), None);
        let found = routed_address(IpAddr::from([0, 0, 0, 0]));
        assert!(found.is_none_or(|own| own.is_ipv4() && !own.is_unspecified() && !own.is_loopback()), "{found:?}");
    }

    use wire::cluster_key::ClusterKey;

    #[test]
    fn the_defaults_are_valid() {
        assert_eq!(config().validate(), Ok(()));
    }

    #[test]
    fn a_bad_setting_is_refused_by_name() {
        #[track_caller]
        fn check(change: impl FnOnce(&mut Config), want: &str) {
            let mut config = config();
            change(&mut config);
            let text = config.validate().unwrap_err().to_string();
            assert!(text.starts_with(want), "{text}");
        }
        check(|c| c.bootstrap_expect = 0, "bootstrap_expect is 0");
        check(|c| c.bootstrap_expect = 10, "bootstrap_expect is 10");
        check(|c| c.bind = IpAddr::from([0, 0, 0, 0]), "bind is 0.0.0.0");
        check(|c| c.datacenter = "DC 1".to_owned(), "datacenter is `DC 1`");
        check(|c| c.leaf_ttl = Duration::ZERO, "leaf_ttl is 0ns");
        check(|c| c.session_grace = Duration::ZERO, "session_grace is 0ns");
        check(|c| c.session_reap = Duration::ZERO, "session_reap is 0ns");
        check(|c| c.snapshot_entries = 0, "snapshot_entries is 0");
        for address in ["10.0.0.1", ":8301", "host:0", "host:port"] {
            check(|c| c.retry_join = vec![address.to_owned()], &format!("retry_join names `{address}`"));
        }
    }

    #[test]
    fn an_advertised_address_makes_up_for_a_wildcard_bind() {
        let mut config = config();
        config.bind = IpAddr::from([0, 0, 0, 0]);
        config.advertise = Some(IpAddr::from([10, 0, 0, 1]));
        assert_eq!(config.validate(), Ok(()));
        assert_eq!(config.advertised(), Some(IpAddr::from([10, 0, 0, 1])));
    }

    #[test]
    fn elections_take_one_to_two_seconds_by_default() {
        assert_eq!(RaftTiming::default().election_timeout(), Duration::from_secs(1));
    }
}
