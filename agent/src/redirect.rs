//! Redirection: the kernel's rules that lead an unmodified application's connections to its agent.
//!
//! All of them stand in one table of nftables that belongs to weft, and each change is one transaction: it is there as
//! asked, or as it was. What is redirected goes to a port of loopback; where no agent listens there, a connection is
//! refused, and never passes the mesh by.

mod nft;
mod rules;
#[cfg(test)]
mod tests;

use catalog::ServiceName;

use crate::address_range::AddressRange;

pub use nft::{RedirectError, apply, remove, show, show_json};
pub use wire::defaults::OUTBOUND_PORT;

/// The name of weft's table, in the family `inet`.
const TABLE: &str = "weft";

/// Says what is redirected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redirection {
    /// Whose connections, and where they go.
    pub outbound: Outbound,
    /// What of the connections that arrive.
    pub inbound: Inbound,
    /// Where questions for names go which those whose connections are redirected ask at port 53; nowhere else where there is none.
    pub dns_port: Option<u16>,
}

/// Says whose connections are redirected, and which of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outbound {
    /// Of users, those to virtual addresses only: on a machine that others use, too.
    Users(Vec<UserRedirection>),
    /// Of everybody but the agent, all: in a pod or task, which is one service.
    Everybody {
        /// Whom the agent runs as.
        agent: User,
        /// Where they go.
        port: u16,
        /// What is left alone.
        except: Except,
    },
}

/// Says where the connections of one user go, to virtual addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserRedirection {
    /// The user.
    pub user: User,
    /// The port that the service's agent takes them on.
    pub port: u16,
}

/// Explains that nobody could tell whose calls these are.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{service}` and `{other}` would be one caller: each service needs a user and a port of its own")]
pub struct OneCaller {
    /// A service.
    pub service: ServiceName,
    /// One before it, with the same user or port.
    pub other: ServiceName,
}

/// Gives the user of each service a port: the one that is said, or the next from [`OUTBOUND_PORT`] on.
///
/// # Errors
///
/// [`OneCaller`] if two services have one user or one port.
pub fn users_of(
    services: impl IntoIterator<Item = (ServiceName, User, Option<u16>)>,
) -> Result<Vec<UserRedirection>, OneCaller> {
    let mut users: Vec<(ServiceName, UserRedirection)> = Vec::new();
    for ((service, user, port), default) in services.into_iter().zip(OUTBOUND_PORT..) {
        let port = port.unwrap_or(default);
        if let Some((other, _)) = users.iter().find(|(_, known)| known.user == user || known.port == port) {
            return Err(OneCaller { service, other: other.clone() });
        }
        users.push((service, UserRedirection { user, port }));
    }
    Ok(users.into_iter().map(|(_, user)| user).collect())
}

/// Says which connections are left alone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Except {
    /// Those to these ports.
    pub ports: Vec<u16>,
    /// Those to these addresses.
    pub addresses: Vec<AddressRange>,
    /// Those of these users.
    pub users: Vec<User>,
}

/// Says which connections that arrive are handed to the mesh listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Inbound {
    /// Those to these ports; with none, nothing is.
    Ports {
        /// The ports of services.
        ports: Vec<u16>,
        /// The mesh listener's port.
        mesh: u16,
    },
    /// All but those to some ports.
    AllBut {
        /// The ports that are left alone.
        ports: Vec<u16>,
        /// The mesh listener's port.
        mesh: u16,
    },
}

/// Is a user of this machine, by number or by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User(String);

/// Explains why a text names no user.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{}` is no user: use a number, or a name of letters, digits, `-` and `_`", .0.escape_debug())]
pub struct UserError(String);

impl std::str::FromStr for User {
    type Err = UserError;

    fn from_str(text: &str) -> Result<Self, UserError> {
        let is_number = text.parse::<u32>().is_ok_and(|number| number.to_string() == text);
        let is_name = text.len() <= 32
            && text.starts_with(|first: char| first.is_ascii_lowercase() || first == '_')
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
        if is_number || is_name { Ok(Self(text.to_owned())) } else { Err(UserError(text.to_owned())) }
    }
}
