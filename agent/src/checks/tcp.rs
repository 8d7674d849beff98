//! TCP checks: passing when a connection can be made.

use std::time::Duration;

use catalog::CheckStatus;

use super::{LeadsOn, ProbeError, connect};

/// Splits `host:port`; a host that is an IPv6 address stands in brackets.
pub(super) fn target(address: &str) -> Result<(String, u16), ProbeError> {
    let invalid = || ProbeError::Address { address: address.to_owned() };
    let (host, port) = address.rsplit_once(':').ok_or_else(invalid)?;
    let host = match host.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']').ok_or_else(invalid)?,
        None if host.contains(':') => return Err(invalid()),
        None => host,
    };
    let port: u16 = port.parse().map_err(|_| invalid())?;
    if host.is_empty() || port == 0 {
        return Err(invalid());
    }
    Ok((host.to_owned(), port))
}

pub(super) async fn probe(address: &str, timeout: Duration, leads_on: &LeadsOn) -> (CheckStatus, String) {
    let attempt = async {
        let (host, port) = target(address)?;
        connect(&host, port, leads_on).await
    };
    let result = match tokio::time::timeout(timeout, attempt).await {
        Ok(result) => result.map(drop),
        Err(_) => Err(ProbeError::Timeout { timeout }),
    };
    match result {
        Ok(()) => (CheckStatus::Passing, format!("TCP connect {address}: success")),
        Err(error) => (CheckStatus::Critical, format!("TCP connect {address}: {}", wire::one_line(&error))),
    }
}
