//! The rules for a peer's leaf certificate: X509-SVID §4 and §5.2, SPIFFE-ID §2, RFC 5280.

use std::time::Duration;

use catalog::{KeyExchange, KeyFingerprint, SpiffeId, Timestamp};
use rustls_pki_types::{CertificateDer, UnixTime};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::oid_registry::OID_X509_EXT_BASIC_CONSTRAINTS;
use x509_parser::prelude::FromDer;

use super::{PeerIdentity, PeerRejected};
use crate::crypto;
use crate::pki::{Serial, from_seconds, platform};

/// Reads a leaf and applies every rule that does not need its chain. Nothing of it is trusted yet.
pub(super) fn inspect(der: &CertificateDer<'_>, now: UnixTime) -> Result<PeerIdentity, PeerRejected> {
    let (rest, leaf) = X509Certificate::from_der(der).map_err(|_| PeerRejected::Malformed)?;
    if !rest.is_empty() {
        return Err(PeerRejected::Malformed);
    }
    // Of two extensions of one kind, two readers might each believe another.
    leaf.extensions_map().map_err(|_| PeerRejected::Malformed)?;
    let id = spiffe_id(&leaf)?;
    check_not_authority(&leaf, &id)?;
    check_key_usage(&leaf, &id)?;
    check_extended_key_usage(&leaf, &id)?;
    let Some(serial) = Serial::from_der_integer(leaf.raw_serial()) else {
        return Err(PeerRejected::SerialNumber { id });
    };
    let not_after = leaf.validity().not_after.timestamp();
    Ok(PeerIdentity {
        id,
        serial: *serial.as_bytes(),
        not_before: from_seconds(leaf.validity().not_before.timestamp()),
        not_after: from_seconds(not_after),
        platform: platform::read(&leaf),
        key: KeyFingerprint(crypto::sha256_hex(leaf.public_key().raw)),
        expired: i64::try_from(now.as_secs()).unwrap_or(i64::MAX) > not_after,
        chain: std::sync::Arc::default(),
        key_exchange: KeyExchange::default(),
    })
}

/// Tells whether a certificate may sign others, which webpki reads from the basic constraints alone.
pub(super) fn may_sign(der: &CertificateDer<'_>) -> bool {
    let Ok((_, certificate)) = X509Certificate::from_der(der) else { return false };
    certificate.key_usage().is_ok_and(|usage| usage.is_some_and(|usage| usage.value.key_cert_sign()))
}

fn spiffe_id(leaf: &X509Certificate<'_>) -> Result<SpiffeId, PeerRejected> {
    let names = leaf.subject_alternative_name().map_err(|_| PeerRejected::Malformed)?;
    let names = names.ok_or(PeerRejected::NoUriName)?;
    let uris: Vec<&str> = names
        .value
        .general_names
        .iter()
        .filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        })
        .collect();
    let id = match uris.as_slice() {
        [] => return Err(PeerRejected::NoUriName),
        [_] if names.value.general_names.len() > 1 => return Err(PeerRejected::OtherNames),
        [uri] => uri.parse::<SpiffeId>().map_err(PeerRejected::MalformedSpiffeId)?,
        several => return Err(PeerRejected::SeveralUriNames { names: several.len() }),
    };
    if leaf.subject().iter().next().is_none() && !names.critical {
        return Err(PeerRejected::NamesNotCritical);
    }
    Ok(id)
}

fn check_not_authority(leaf: &X509Certificate<'_>, id: &SpiffeId) -> Result<(), PeerRejected> {
    let constraints =
        leaf.get_extension_unique(&OID_X509_EXT_BASIC_CONSTRAINTS).map_err(|_| PeerRejected::Malformed)?;
    match constraints.map(|extension| extension.parsed_extension()) {
        None => Ok(()),
        Some(ParsedExtension::BasicConstraints(constraints)) if !constraints.ca => Ok(()),
        Some(ParsedExtension::BasicConstraints(_)) => Err(PeerRejected::AuthorityLeaf { id: id.clone() }),
        Some(_) => Err(PeerRejected::Malformed),
    }
}

fn check_key_usage(leaf: &X509Certificate<'_>, id: &SpiffeId) -> Result<(), PeerRejected> {
    let usage = leaf.key_usage().map_err(|_| PeerRejected::Malformed)?;
    let fits = usage.is_some_and(|usage| {
        let signs_others = usage.value.key_cert_sign() || usage.value.crl_sign();
        usage.critical && usage.value.digital_signature() && !signs_others
    });
    if fits { Ok(()) } else { Err(PeerRejected::KeyUsage { id: id.clone() }) }
}

fn check_extended_key_usage(leaf: &X509Certificate<'_>, id: &SpiffeId) -> Result<(), PeerRejected> {
    let usage = leaf.extended_key_usage().map_err(|_| PeerRejected::Malformed)?;
    if usage.is_some_and(|usage| usage.value.server_auth && usage.value.client_auth) {
        Ok(())
    } else {
        Err(PeerRejected::ExtendedKeyUsage { id: id.clone() })
    }
}

/// Returns an instant as rustls and webpki count it.
pub(super) fn unix_time(timestamp: Timestamp) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_millis(timestamp.0))
}

impl PeerIdentity {
    /// Reads an identity out of a certificate that was verified before, or that is our own.
    pub(super) fn of_verified(der: &CertificateDer<'_>, now: Timestamp) -> Result<Self, PeerRejected> {
        inspect(der, unix_time(now))
    }
}
