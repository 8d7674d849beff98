//! What applications that speak mutual TLS by themselves ask of an agent: their leaf, and whom to let in.

use ::catalog::{CatalogIndex, Namespace, ServiceKey, ServiceName, SpiffeId, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::crypto::Secret;
use crate::decode::{DecodeError, Fields, Shape};
use crate::pki::Serial;
use crate::rfc3339;

/// Answers `agent/connect/ca/leaf/:service`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "PascalCase")]
pub struct LeafCertificate {
    /// The certificate's serial number, hexadecimal with colons.
    pub serial_number: String,
    /// The leaf and then its issuer, PEM.
    #[serde(rename = "CertPEM")]
    pub certificate_pem: String,
    /// The leaf's key, which the agent made on this machine.
    #[serde(rename = "PrivateKeyPEM")]
    #[schema(value_type = String)]
    pub private_key_pem: Secret,
    /// The service.
    #[schema(value_type = String)]
    pub service: ServiceName,
    /// The service's namespace.
    #[schema(value_type = String)]
    pub namespace: Namespace,
    /// The identity that the leaf proves.
    #[serde(rename = "ServiceURI")]
    pub service_uri: String,
    /// When the agent got it.
    #[serde(with = "rfc3339::text")]
    #[schema(value_type = String)]
    pub valid_after: Timestamp,
    /// When it expires.
    #[serde(with = "rfc3339::text")]
    #[schema(value_type = String)]
    pub valid_before: Timestamp,
    /// A number that is another one for each leaf.
    #[schema(value_type = u64)]
    pub create_index: CatalogIndex,
    /// The same number.
    #[schema(value_type = u64)]
    pub modify_index: CatalogIndex,
}

/// Asks `agent/connect/authorize` whether the holder of a certificate may call a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthorizeRequest {
    /// The service that is called.
    pub target: ServiceKey,
    /// Whom the caller's certificate names.
    pub client: SpiffeId,
    /// The serial number of that certificate, by which revoked ones are known.
    pub serial: Serial,
}

impl Shape for AuthorizeRequest {
    fn read(fields: &mut Fields) -> Result<Self, DecodeError> {
        let name: ServiceName = fields.required("Target")?;
        let namespace: Namespace = fields.parsed("Namespace")?.unwrap_or_default();
        let client = fields.required("ClientCertURI")?;
        let serial = fields.required("ClientCertSerial")?;
        fields.unsupported(&["Partition"])?;
        Ok(Self { target: ServiceKey::new(namespace, name), client, serial })
    }
}

/// Answers `agent/connect/authorize`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "PascalCase")]
pub struct AuthorizeAnswer {
    /// Whether the connection may be let in. What is decided request by request counts as denied, as Consul has it.
    pub authorized: bool,
    /// Which rule decided.
    pub reason: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::from_json;

    #[test]
    fn a_request_to_authorize_is_read_as_consuls_sdk_sends_it() {
        let body = br#"{"Target": "db", "ClientCertURI": "spiffe://mesh.test/ns/default/sa/web",
                        "ClientCertSerial": "04:00:00:00:00:00:00:00:01"}"#;
        let request = from_json::<AuthorizeRequest>(body).unwrap();
        assert_eq!(request.target, "db".parse().unwrap());
        assert_eq!(request.serial.to_string(), "00000000000000040000000000000001".to_owned());
        for (body, want) in [
            (r#"{"ClientCertURI": "spiffe://a/b"}"#, "`Target` is missing"),
            (r#"{"Target": "db"}"#, "`ClientCertURI` is missing"),
            (r#"{"Target": "db", "ClientCertURI": "https://a/b"}"#, "`ClientCertURI`"),
            (r#"{"Target": "db", "ClientCertURI": "spiffe://a/b"}"#, "`ClientCertSerial` is missing"),
            (r#"{"Target": "db", "ClientCertURI": "spiffe://a/b", "ClientCertSerial": "zz"}"#, "`ClientCertSerial`"),
        ] {
            let error = from_json::<AuthorizeRequest>(body.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(want), "{error}");
        }
    }
}
