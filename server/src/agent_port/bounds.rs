//! What the port does for its peers at most.

use crate::ca::Pace;

/// Leaves signed for agents at once and per second: ten thousand agents are re-admitted within a minute, and Raft's own
/// thread keeps its share of the processor.
const SIGNED_BURST: u32 = 500;
const SIGNED_PER_SECOND: u32 = 250;
/// Agents that join at once and per second. They have turns of their own: no crowd of newcomers keeps the agents that
/// there are from renewing their certificates.
const JOINED_BURST: u32 = 100;
const JOINED_PER_SECOND: u32 = 50;
/// Connections without an agent's certificate that one address may hold at once.
const CONNECTIONS_PER_ADDRESS_MAX: usize = 200;
/// Connections that one agent may hold at once. It needs one or two; those that broke count until they are noticed.
const CONNECTIONS_PER_AGENT_MAX: usize = 32;

/// Bounds what the port does for its peers.
#[derive(Debug)]
pub(crate) struct Bounds {
    /// Turns at signing for agents that there are.
    pub(crate) signing: Pace,
    /// Turns at joining.
    pub(crate) joining: Pace,
    /// Connections without an agent's certificate from one address.
    pub(crate) connections_per_address_max: usize,
    /// Connections of one agent, wherever they come from.
    pub(crate) connections_per_agent_max: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            signing: Pace::new(SIGNED_BURST, SIGNED_PER_SECOND),
            joining: Pace::new(JOINED_BURST, JOINED_PER_SECOND),
            connections_per_address_max: CONNECTIONS_PER_ADDRESS_MAX,
            connections_per_agent_max: CONNECTIONS_PER_AGENT_MAX,
        }
    }
}
