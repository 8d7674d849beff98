//! The public keys of an issuer, and which signatures each may make.

use catalog::JwtAlgorithm;
use jsonwebtoken::DecodingKey;
use serde_json::Value;

/// Of an issuer's keys with names, this many are tried with a token that names none. An issuer of several has to name the one
/// that it used (OpenID Connect Core section 10.1), and each try costs whoever checks.
const UNNAMED_TRIES_MAX: usize = 8;

/// Keys of one issuer that are read; a set with more is a mistake or an attack.
const KEYS_MAX: usize = 64;

const RSA: [JwtAlgorithm; 6] = [
    JwtAlgorithm::RS256,
    JwtAlgorithm::RS384,
    JwtAlgorithm::RS512,
    JwtAlgorithm::PS256,
    JwtAlgorithm::PS384,
    JwtAlgorithm::PS512,
];

/// Explains why keys cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeysError {
    /// A PEM text is no public key.
    #[error("key {number} is no PEM public key: give it as `openssl pkey -pubout` prints it")]
    Pem {
        /// Which, counted from 1.
        number: usize,
    },
    /// The text is no JSON Web Key Set.
    #[error("it is no JSON Web Key Set: {reason}")]
    Set {
        /// What is wrong.
        reason: String,
    },
    /// The set has no key that can be used.
    #[error("the key set has no key that checks signatures of a kind that weft takes")]
    None,
}

/// One key, and the algorithms that it is for. A signature of any other kind is not even tried with it, so that no key is
/// ever taken for one of another kind.
pub(super) struct IssuerKey {
    id: Option<String>,
    algorithms: Vec<JwtAlgorithm>,
    pub(super) key: DecodingKey,
}

impl std::fmt::Debug for IssuerKey {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("IssuerKey").field("id", &self.id).field("algorithms", &self.algorithms).finish()
    }
}

/// Holds the keys of one issuer.
#[derive(Debug)]
pub struct KeySet(Vec<IssuerKey>);

impl KeySet {
    /// Reads public keys, each a PEM text of its own.
    ///
    /// # Errors
    ///
    /// [`KeysError::Pem`] names the first that is none.
    pub fn from_pem(texts: &[String]) -> Result<Self, KeysError> {
        let keys = texts.iter().zip(1..).map(|(text, number)| pem_key(text).ok_or(KeysError::Pem { number }));
        Ok(Self(keys.collect::<Result<_, _>>()?))
    }

    /// Reads a JSON Web Key Set (RFC 7517). Keys of other kinds or uses are passed over, as its section 5 says.
    ///
    /// # Errors
    ///
    /// [`KeysError`] if it is none, or has no key that can be used.
    pub fn from_jwks(bytes: &[u8]) -> Result<Self, KeysError> {
        let refused = |reason: &str| KeysError::Set { reason: reason.to_owned() };
        let set: Value = serde_json::from_slice(bytes).map_err(|error| refused(&error.to_string()))?;
        let keys = set.get("keys").and_then(Value::as_array).ok_or_else(|| refused("it has no list `keys`"))?;
        if keys.len() > KEYS_MAX {
            return Err(refused(&format!("it has {} keys, and at most {KEYS_MAX} are read", keys.len())));
        }
        let keys: Vec<IssuerKey> = keys.iter().filter_map(jwk).collect();
        if keys.is_empty() { Err(KeysError::None) } else { Ok(Self(keys)) }
    }

    /// Returns the keys that may have made a signature of this kind under this key id.
    ///
    /// A key without an id is tried for every id; a token without one is tried with every such key, and with a few of the
    /// others.
    pub(super) fn candidates(&self, id: Option<&str>, algorithm: JwtAlgorithm) -> impl Iterator<Item = &IssuerKey> {
        let mut tries = 0;
        self.0.iter().filter(move |key| {
            let named = match (&key.id, id) {
                (Some(own), Some(wanted)) => own == wanted,
                (None, _) | (_, None) => true,
            };
            let fits = named && key.algorithms.contains(&algorithm);
            if fits && id.is_none() && key.id.is_some() {
                tries += 1;
            }
            fits && (id.is_some() || key.id.is_none() || tries <= UNNAMED_TRIES_MAX)
        })
    }
}

fn pem_key(text: &str) -> Option<IssuerKey> {
    let bytes = text.trim().as_bytes();
    let (key, algorithms) = DecodingKey::from_rsa_pem(bytes)
        .map(|key| (key, RSA.to_vec()))
        .or_else(|_| DecodingKey::from_ec_pem(bytes).map(|key| (key, vec![JwtAlgorithm::ES256, JwtAlgorithm::ES384])))
        .or_else(|_| DecodingKey::from_ed_pem(bytes).map(|key| (key, vec![JwtAlgorithm::EdDSA])))
        .ok()?;
    // A private key proves as much and is no business of a server's.
    let is_public = text.contains("BEGIN PUBLIC KEY") || text.contains("BEGIN RSA PUBLIC KEY");
    is_public.then_some(IssuerKey { id: None, algorithms, key })
}

fn jwk(jwk: &Value) -> Option<IssuerKey> {
    let text = |name: &str| jwk.get(name).and_then(Value::as_str);
    if text("use").is_some_and(|usage| usage != "sig") {
        return None;
    }
    let operations = jwk.get("key_ops").and_then(Value::as_array);
    if operations.is_some_and(|operations| !operations.iter().any(|operation| operation == "verify")) {
        return None;
    }
    let (key, mut algorithms) = match (text("kty")?, text("crv")) {
        ("RSA", _) => (DecodingKey::from_rsa_components(text("n")?, text("e")?).ok()?, RSA.to_vec()),
        ("EC", Some("P-256")) => {
            (DecodingKey::from_ec_components(text("x")?, text("y")?).ok()?, vec![JwtAlgorithm::ES256])
        }
        ("EC", Some("P-384")) => {
            (DecodingKey::from_ec_components(text("x")?, text("y")?).ok()?, vec![JwtAlgorithm::ES384])
        }
        ("OKP", Some("Ed25519")) => (DecodingKey::from_ed_components(text("x")?).ok()?, vec![JwtAlgorithm::EdDSA]),
        _ => return None,
    };
    if let Some(only) = text("alg") {
        algorithms.retain(|algorithm| algorithm.name() == only);
    }
    let id = text("kid").map(str::to_owned);
    (!algorithms.is_empty()).then_some(IssuerKey { id, algorithms, key })
}
