//! Certificates of the HTTP API: for host names and addresses, and for nothing that the mesh would take for an identity.

use std::time::Duration;

use catalog::Timestamp;
use rcgen::string::Ia5String;
use rcgen::{
    CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose, SanType, SerialNumber,
};

use super::{LocalSigner, SignError, SignedLeaf};
use crate::api_name::ApiName;
use crate::pki::csr::Csr;
use crate::pki::instant::to_date;
use crate::pki::profile::Validity;
use crate::pki::serial::Serial;

impl LocalSigner {
    /// Signs a certificate by which clients that trust the mesh's root know the API under `names`.
    ///
    /// It has no SPIFFE ID, so that no agent or server takes its holder for a workload, an agent or a server.
    ///
    /// # Errors
    ///
    /// [`SignError`] if this signer has expired or its key fails.
    pub fn sign_api(
        &self,
        csr: &Csr,
        names: &[ApiName],
        serial: Serial,
        now: Timestamp,
        ttl: Duration,
    ) -> Result<SignedLeaf, SignError> {
        let validity = self.0.validity_at(now, ttl)?;
        let certificate =
            params(names, serial, validity).signed_by(csr.public_key(), &self.0.issuer).map_err(SignError::Key)?;
        let Validity { not_before, not_after } = validity;
        Ok(SignedLeaf { certificate_pem: certificate.pem(), not_before, not_after })
    }
}

fn params(names: &[ApiName], serial: Serial, validity: Validity) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.not_before = to_date(validity.not_before);
    params.not_after = to_date(validity.not_after);
    params.serial_number = Some(SerialNumber::from_slice(serial.as_bytes()));
    params.distinguished_name = DistinguishedName::new();
    let dns = |name: String| SanType::DnsName(Ia5String::try_from(name).expect("a host name is ASCII"));
    params.subject_alt_names = names
        .iter()
        .map(|name| match name {
            ApiName::Dns(_) | ApiName::DnsBelow(_) => dns(name.to_string()),
            ApiName::Ip(address) => SanType::IpAddress(*address),
        })
        .collect();
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    params
}
