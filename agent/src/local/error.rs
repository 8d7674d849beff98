//! Why a service or check is not taken.

use std::net::SocketAddr;
use std::path::PathBuf;

use catalog::{CheckId, InstanceId, NodeName, ServiceKey};
use http::StatusCode;

/// Why the agent does not take a definition, or does not do what it was asked with one.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// A file or directory could not be read.
    #[error("cannot read `{}`", path.display())]
    Read {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A file is not what it should be.
    #[error("cannot understand `{}`: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        reason: String,
    },
    /// What a file defines cannot be served by any agent.
    #[error("cannot serve what `{}` defines", path.display())]
    Defined {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: Box<LocalError>,
    },
    /// A definition is not what it should be.
    #[error("{reason}")]
    Definition {
        /// What is wrong, and where.
        reason: String,
    },
    /// A field of a definition cannot have its value.
    #[error("`{field}` of `{id}`: {problem}")]
    Field {
        /// The service or check.
        id: String,
        /// The field.
        field: &'static str,
        /// What is wrong with it, and what to do.
        problem: String,
    },
    /// The agent's record does not list the service.
    #[error(
        "the agent on node `{node}` is not entitled to service `{service}`, only to {entitled}: \
         join it again with a token made by `weft join-token create --service {service}`"
    )]
    NotEntitled {
        /// The service.
        service: ServiceKey,
        /// The agent's node.
        node: NodeName,
        /// What it is entitled to.
        entitled: String,
    },
    /// Two listeners would need the same port.
    #[error("the upstream `{destination}` of `{owner}` cannot listen on {address}: {other} does; give it another port")]
    PortTaken {
        /// The instance that has the upstream.
        owner: InstanceId,
        /// What the upstream calls.
        destination: ServiceKey,
        /// Where the upstream is to listen.
        address: SocketAddr,
        /// What listens there.
        other: String,
    },
    /// Redirected connections would arrive where something else listens, or at another service's port.
    #[error(
        "the connections of `{owner}` cannot be redirected to port {port}: it is {other}; name another one by \
         `outbound_listener_port`, and have the rules lead there"
    )]
    OutboundTaken {
        /// The instance whose connections are redirected.
        owner: InstanceId,
        /// The port that it names, or was given earlier.
        port: u16,
        /// What the port is.
        other: String,
    },
    /// Two files, or a file and an earlier registration, define the same id.
    #[error("{what} `{id}` is defined by {known} already: give one of them another id")]
    Twice {
        /// `service` or `check`.
        what: &'static str,
        /// Its id.
        id: String,
        /// Who defined it first.
        known: String,
    },
    /// What a file defines is changed in the file.
    #[error("{what} `{id}` is defined in `{}`: change it there and reload the agent", path.display())]
    InFile {
        /// `service` or `check`.
        what: &'static str,
        /// Its id.
        id: String,
        /// The file.
        path: PathBuf,
    },
    /// The agent itself failed.
    #[error("the agent failed while it worked on that: {reason}; see its log, and try again")]
    Internal {
        /// What happened.
        reason: String,
    },
    /// Another check has the id.
    #[error("check `{id}` exists already on this node: give one of them another id")]
    CheckTaken {
        /// The id.
        id: CheckId,
    },
    /// The check belongs to a service's definition.
    #[error("check `{id}` is part of service `{service}`: register the service without it")]
    CheckOfService {
        /// The check.
        id: CheckId,
        /// The service.
        service: InstanceId,
    },
    /// There is no such service.
    #[error("unknown service `{id}`: it is not registered with this agent")]
    UnknownService {
        /// The id that was asked for.
        id: InstanceId,
    },
    /// There is no such check.
    #[error("unknown check `{id}`: it is not registered with this agent")]
    UnknownCheck {
        /// The id that was asked for.
        id: CheckId,
    },
    /// Only TTL checks are told how they are.
    #[error("check `{id}` is made by the agent: only TTL checks take updates")]
    NotTtl {
        /// The check.
        id: CheckId,
    },
    /// There is a bound on everything.
    #[error("an agent takes at most {most} {what}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// The bound.
        most: usize,
    },
    /// What was registered could not be kept.
    #[error("cannot keep the registration")]
    Keep {
        /// What went wrong in the data directory.
        #[source]
        source: Box<crate::state::DataDirError>,
    },
}

impl LocalError {
    /// Returns the status by which the local API answers.
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::NotEntitled { .. } => StatusCode::FORBIDDEN,
            Self::UnknownService { .. } | Self::UnknownCheck { .. } => StatusCode::NOT_FOUND,
            Self::PortTaken { .. }
            | Self::OutboundTaken { .. }
            | Self::Twice { .. }
            | Self::InFile { .. }
            | Self::CheckTaken { .. } => StatusCode::CONFLICT,
            Self::File { .. }
            | Self::Defined { .. }
            | Self::Definition { .. }
            | Self::Field { .. }
            | Self::CheckOfService { .. }
            | Self::NotTtl { .. }
            | Self::TooMany { .. } => StatusCode::BAD_REQUEST,
            Self::Read { .. } | Self::Keep { .. } | Self::Internal { .. } => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}
