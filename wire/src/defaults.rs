//! The numbers and names that several rooms must agree on where nobody says otherwise.

/// The port of an agent's inbound mesh listener.
pub const MESH_PORT: u16 = 20_000;
/// The first port on which an agent takes redirected connections; each local service has one of its own.
pub const OUTBOUND_PORT: u16 = 15_101;
/// The port of an agent's DNS server.
pub const DNS_PORT: u16 = 8600;
/// The domain that the names of the mesh end with.
pub const DNS_DOMAIN: &str = "mesh";
