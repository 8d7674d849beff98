//! The certificate by which clients know the HTTP API, signed by the mesh's own authority.

use std::time::Duration;

use catalog::{Catalog, Timestamp};
use wire::api_name::ApiName;
use wire::pki::{LeafKey, LocalSigner, Serial, parse_csr};
use wire::tls::ApiCertificate;

use super::{CertificateAuthority, SignError};

impl CertificateAuthority {
    /// Makes a certificate for `names`, with a key of its own that is never stored.
    ///
    /// # Errors
    ///
    /// [`SignError::NotReady`] before the mesh has a certificate authority.
    pub(crate) fn api_certificate(
        &self,
        catalog: &Catalog,
        names: &[ApiName],
        ttl: Duration,
        now: Timestamp,
    ) -> Result<ApiCertificate, SignError> {
        let intermediate = catalog.active_intermediate().ok_or(SignError::NotReady)?;
        let key = LeafKey::generate();
        let csr = parse_csr(&key.csr_der(None)).map_err(SignError::Csr)?;
        let signer = self.signer(catalog)?;
        let signed =
            signer.sign_api(&csr, names, Serial::draw(intermediate.created), now, ttl).map_err(SignError::Signer)?;
        let chain = signed.certificate_pem + LocalSigner::certificate_pem(&signer);
        ApiCertificate::from_pem(&chain, &key.to_pem()).map_err(SignError::Api)
    }
}
