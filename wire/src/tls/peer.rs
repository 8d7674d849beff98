//! Who is at the other end of a connection.

use std::sync::Arc;

use catalog::{KeyExchange, KeyFingerprint, Platform, SpiffeId, Timestamp};
use rustls::{CommonState, NamedGroup};
use rustls_pki_types::CertificateDer;

use super::PeerRejected;
use crate::crypto;

/// What a peer's verified certificate says of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerIdentity {
    /// Who it is.
    pub id: SpiffeId,
    /// What it runs on, as the record says that its leaf was signed from; none where the leaf does not tell.
    pub platform: Option<Platform>,
    /// The leaf's serial number, padded to 16 octets. Its first 8 are the index of the record that it was signed from.
    pub serial: [u8; 16],
    /// When the leaf became valid.
    pub not_before: Timestamp,
    /// When the leaf expires.
    pub not_after: Timestamp,
    /// The name of the peer's public key.
    pub key: KeyFingerprint,
    /// Whether the leaf has expired already. Only the agent port lets such a peer in, to renew.
    pub expired: bool,
    /// All that the peer of a connection showed, leaf first, so that it can be judged again when trust has changed; empty
    /// where the identity is of no connection.
    pub chain: Arc<[CertificateDer<'static>]>,
    /// How the connection's keys were agreed on; classical where the identity is of no connection.
    pub key_exchange: KeyExchange,
}

/// Returns the identity of the peer of a finished handshake, or nothing if it showed no certificate.
///
/// The certificate was verified during the handshake, by the configuration that the connection was made with: call this
/// only on connections made with one of this module.
///
/// # Errors
///
/// [`PeerRejected`] if the certificate breaks a rule after all, which the handshake would have noticed.
pub fn peer_identity(connection: &CommonState) -> Result<Option<PeerIdentity>, PeerRejected> {
    let Some(chain @ [leaf, ..]) = connection.peer_certificates() else { return Ok(None) };
    let identity = PeerIdentity::of_verified(leaf, crypto::now())?;
    let chain = chain.iter().map(|certificate| certificate.clone().into_owned()).collect();
    Ok(Some(PeerIdentity { chain, key_exchange: key_exchange(connection), ..identity }))
}

/// Returns how the keys of a connection were agreed on; classical while they are not.
fn key_exchange(connection: &CommonState) -> KeyExchange {
    match connection.negotiated_key_exchange_group().map(|group| group.name()) {
        Some(NamedGroup::X25519MLKEM768) => KeyExchange::Hybrid,
        _ => KeyExchange::Classical,
    }
}
