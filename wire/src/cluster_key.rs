//! The secret that the servers share: what it looks like, and the keys that are derived from it.

mod authority;

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;
use std::str::FromStr;

use catalog::SealedSecret;
use data_encoding::{BASE64, BASE64URL_NOPAD, HEXLOWER};
use zeroize::Zeroizing;

use crate::crypto::{self, KEY_BYTES, NONCE_BYTES, Secret, SecretFileError};

pub(crate) use authority::raft_trust_domain;
pub use authority::{Authority, AuthorityError, RAFT_TRUST_DOMAIN, raft_identity};

/// What every cluster key starts with, so that a secret scanner and a person know it when they see it.
const PREFIX: &str = "weft-cluster-key-v1.";

/// The checksum is there for the typing error, not against an adversary.
const CHECKSUM_BYTES: usize = 4;

/// A file with more than this is no cluster key.
const FILE_BYTES_MAX: u64 = 256;

/// The secret that makes a process a server: 32 random bytes as [`ClusterKey::generate`] draws them.
///
/// Every use has a key of its own, derived by HKDF-SHA256 under its own label, so that none tells anything of another.
#[derive(Clone)]
pub struct ClusterKey(Zeroizing<[u8; KEY_BYTES]>);

/// What a sealed secret belongs to. It opens in the same place only.
#[derive(Debug, Clone, Copy)]
pub struct SealContext<'a> {
    /// The cluster whose log holds it.
    pub cluster_id: &'a str,
    /// The kind of record, such as `ca-root`.
    pub kind: &'a str,
    /// The record's id.
    pub id: &'a str,
}

/// Why a text is not a cluster key. No message repeats any of the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ClusterKeyTextError {
    /// The text does not start as a cluster key does.
    #[error("not a cluster key: it must be the output of `weft keygen`, which starts with `{PREFIX}`")]
    Prefix,
    /// The rest is not what `weft keygen` prints.
    #[error("not a cluster key: it is cut short, too long, or has characters that `weft keygen` does not print")]
    Form,
    /// The checksum does not fit the key.
    #[error("the cluster key has a wrong character somewhere; copy the output of `weft keygen` again")]
    Checksum,
}

/// Why a cluster key could not be loaded from a file.
#[derive(Debug, thiserror::Error)]
pub enum ClusterKeyFileError {
    /// The file could not be read, or others may read it.
    #[error("cannot load the cluster key")]
    File(#[source] SecretFileError),
    /// The file holds something else.
    #[error("cannot load the cluster key from `{}`", path.display())]
    Text {
        /// The file.
        path: std::path::PathBuf,
        /// What is wrong with its text.
        #[source]
        source: ClusterKeyTextError,
    },
}

/// Why a sealed secret could not be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// No configured cluster key made it.
    #[error("the {kind} `{id}` is sealed with cluster key {sealed_with}, and the configured one is {configured}")]
    OtherKey {
        /// The kind of record.
        kind: String,
        /// The record's id.
        id: String,
        /// The key it needs.
        sealed_with: String,
        /// The keys at hand.
        configured: String,
    },
    /// The record was altered, or moved from another record or cluster.
    #[error("the sealed {kind} `{id}` was altered or belongs to another record or cluster")]
    NotAuthentic {
        /// The kind of record.
        kind: String,
        /// The record's id.
        id: String,
    },
}

impl ClusterKey {
    /// Draws a new key.
    pub fn generate() -> Self {
        Self(Zeroizing::new(crypto::random()))
    }

    /// Reads the key that the file at `path` holds.
    ///
    /// # Errors
    ///
    /// [`ClusterKeyFileError`] if the file is not the owner's alone (mode 0600 or 0400), or not what `weft keygen`
    /// printed.
    pub fn load(path: &Path) -> Result<Self, ClusterKeyFileError> {
        let text = crypto::read_secret_file(path, FILE_BYTES_MAX).map_err(ClusterKeyFileError::File)?;
        text.expose().parse().map_err(|source| ClusterKeyFileError::Text { path: path.to_owned(), source })
    }

    /// Returns the key as `weft keygen` prints it.
    pub fn to_text(&self) -> Secret {
        let mut bytes = Zeroizing::new([0; KEY_BYTES + CHECKSUM_BYTES]);
        bytes[..KEY_BYTES].copy_from_slice(self.0.as_slice());
        bytes[KEY_BYTES..].copy_from_slice(&checksum(&self.0));
        let text = Zeroizing::new(BASE64URL_NOPAD.encode(bytes.as_slice()));
        Secret::new(format!("{PREFIX}{}", text.as_str()))
    }

    /// Returns the name of this key, 8 hexadecimal digits that tell nothing of the key itself.
    pub fn key_id(&self) -> String {
        HEXLOWER.encode(&self.derive("weft cluster key id v1")[..4])
    }

    /// Returns the authority that servers holding this key trust one another by.
    pub fn authority(&self) -> Authority {
        Authority::from_seed(&self.derive("weft raft authority v1"))
    }

    /// Encrypts `plaintext` so that only a holder of this key reads it, and only as the record of `context`.
    pub fn seal(&self, context: &SealContext<'_>, plaintext: &[u8]) -> SealedSecret {
        let key_id = self.key_id();
        let bound = context.bytes(&key_id);
        let (nonce, ciphertext) = crypto::seal(&self.derive("weft sealed secret v1"), &bound, plaintext);
        SealedSecret { key_id, nonce: HEXLOWER.encode(&nonce), ciphertext: BASE64.encode(&ciphertext) }
    }

    /// Decrypts what [`ClusterKey::seal`] made of the same record.
    ///
    /// # Errors
    ///
    /// [`SealError`] if another key made it, or if it belongs to another record or was altered.
    pub fn open(&self, context: &SealContext<'_>, sealed: &SealedSecret) -> Result<Zeroizing<Vec<u8>>, SealError> {
        let key_id = self.key_id();
        if sealed.key_id != key_id {
            return Err(context.other_key(sealed, key_id));
        }
        let nonce = HEXLOWER.decode(sealed.nonce.as_bytes()).ok();
        let nonce = nonce.and_then(|nonce| <[u8; NONCE_BYTES]>::try_from(nonce).ok());
        let ciphertext = BASE64.decode(sealed.ciphertext.as_bytes()).ok();
        let (Some(nonce), Some(ciphertext)) = (nonce, ciphertext) else {
            return Err(context.not_authentic());
        };
        let bound = context.bytes(&key_id);
        crypto::open(&self.derive("weft sealed secret v1"), &bound, nonce, &ciphertext)
            .map_err(|_| context.not_authentic())
    }

    /// Returns the proof of possession that `weft acl bootstrap` answers a server's `challenge` with.
    pub fn acl_bootstrap_mac(&self, challenge: &[u8]) -> [u8; 32] {
        crypto::hmac_sha256(self.derive("weft acl bootstrap v1").as_slice(), challenge)
    }

    fn derive(&self, label: &str) -> Zeroizing<[u8; KEY_BYTES]> {
        crypto::derive_key(&self.0, label)
    }
}

impl FromStr for ClusterKey {
    type Err = ClusterKeyTextError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let encoded = text.strip_prefix(PREFIX).ok_or(ClusterKeyTextError::Prefix)?;
        let bytes = BASE64URL_NOPAD.decode(encoded.as_bytes()).map_err(|_| ClusterKeyTextError::Form)?;
        let bytes = Zeroizing::new(bytes);
        if bytes.len() != KEY_BYTES + CHECKSUM_BYTES {
            return Err(ClusterKeyTextError::Form);
        }
        let mut key = Zeroizing::new([0; KEY_BYTES]);
        key.copy_from_slice(&bytes[..KEY_BYTES]);
        if bytes[KEY_BYTES..] != checksum(&key) {
            return Err(ClusterKeyTextError::Checksum);
        }
        Ok(Self(key))
    }
}

impl fmt::Debug for ClusterKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "ClusterKey({})", self.key_id())
    }
}

impl PartialEq for ClusterKey {
    fn eq(&self, other: &Self) -> bool {
        crypto::constant_time_eq(self.0.as_slice(), other.0.as_slice())
    }
}

impl Eq for ClusterKey {}

/// The cluster keys of one server: one, or two while the key is being changed.
///
/// The primary key seals and vouches for this server; both open, and servers vouched for by either are trusted. So a
/// key is changed in rounds over all servers: add the new one as the previous, exchange the two. The old one must stay
/// as long as anything in the log or a snapshot is sealed with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterKeys {
    /// The key in use.
    pub primary: ClusterKey,
    /// The other key that still counts, or counts already.
    pub previous: Option<ClusterKey>,
}

impl ClusterKeys {
    /// Returns the keys of a server that has only one.
    pub fn single(primary: ClusterKey) -> Self {
        Self { primary, previous: None }
    }

    /// Encrypts `plaintext` with the primary key: see [`ClusterKey::seal`].
    pub fn seal(&self, context: &SealContext<'_>, plaintext: &[u8]) -> SealedSecret {
        self.primary.seal(context, plaintext)
    }

    /// Decrypts with whichever key made it.
    ///
    /// # Errors
    ///
    /// [`SealError`] if neither key made it, or if it belongs to another record or was altered.
    pub fn open(&self, context: &SealContext<'_>, sealed: &SealedSecret) -> Result<Zeroizing<Vec<u8>>, SealError> {
        match self.all().find(|key| key.key_id() == sealed.key_id) {
            Some(key) => key.open(context, sealed),
            None => {
                let configured: BTreeSet<_> = self.all().map(ClusterKey::key_id).collect();
                Err(context.other_key(sealed, configured.into_iter().collect::<Vec<_>>().join(" and ")))
            }
        }
    }

    /// Tells whether `mac` answers `challenge` by either key: see [`ClusterKey::acl_bootstrap_mac`].
    pub fn verify_acl_bootstrap_mac(&self, challenge: &[u8], mac: &[u8]) -> bool {
        self.all().any(|key| crypto::constant_time_eq(&key.acl_bootstrap_mac(challenge), mac))
    }

    /// Lists the keys, the primary one first.
    pub fn all(&self) -> impl Iterator<Item = &ClusterKey> {
        std::iter::once(&self.primary).chain(&self.previous)
    }
}

impl SealContext<'_> {
    /// The bytes that the ciphertext is bound to. Each part carries its length, so that no two contexts share them.
    fn bytes(&self, key_id: &str) -> Vec<u8> {
        let mut bytes = b"weft sealed secret v1".to_vec();
        for part in [self.cluster_id, self.kind, self.id, key_id] {
            bytes.extend_from_slice(&(part.len() as u64).to_be_bytes());
            bytes.extend_from_slice(part.as_bytes());
        }
        bytes
    }

    fn other_key(&self, sealed: &SealedSecret, configured: String) -> SealError {
        let (kind, id) = (self.kind.to_owned(), self.id.to_owned());
        SealError::OtherKey { kind, id, sealed_with: sealed.key_id.clone(), configured }
    }

    fn not_authentic(&self) -> SealError {
        SealError::NotAuthentic { kind: self.kind.to_owned(), id: self.id.to_owned() }
    }
}

fn checksum(key: &[u8; KEY_BYTES]) -> [u8; CHECKSUM_BYTES] {
    let mut input = Zeroizing::new(b"weft cluster key checksum v1".to_vec());
    input.extend_from_slice(key);
    let digest = crypto::sha256(&input);
    digest[..CHECKSUM_BYTES].try_into().expect("a digest is longer than its checksum")
}

#[cfg(test)]
mod tests;
