//! The one string that lets an agent join: whom to trust, and a secret.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use catalog::SecretHash;
use data_encoding::BASE64URL_NOPAD;
use zeroize::Zeroizing;

use crate::crypto::{self, KEY_BYTES, Secret, SecretFileError};

/// What every join token starts with, so that a secret scanner and a person know it when they see it.
const PREFIX: &str = "weft-join-v1.";

/// A file with more than this is no join token.
const FILE_BYTES_MAX: u64 = 8192;

/// No join token names more servers.
const SERVERS_MAX: usize = 16;

/// No address of a server is longer: a host name of 253 characters, a colon and a port.
const ADDRESS_MAX: usize = 259;

/// What an agent joins with: the fingerprint of the mesh's root, a secret that works once, and where the servers are.
///
/// The fingerprint lets the agent recognise the servers before it sends the secret, the secret lets them recognise it. The
/// addresses only say where to look: whoever answers there has to show the root all the same.
#[derive(Clone)]
pub struct JoinSecret {
    root_fingerprint: [u8; 32],
    secret: Zeroizing<[u8; KEY_BYTES]>,
    servers: Vec<String>,
}

/// Why a text is not a join token. No message repeats any of the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum JoinSecretError {
    /// The text does not start as a join token does.
    #[error("not a join token: it must be the output of `weft join-token create`, which starts with `{PREFIX}`")]
    Prefix,
    /// The rest is not what `weft join-token create` prints.
    #[error("not a join token: it is cut short or altered; copy the output of `weft join-token create` again")]
    Form,
}

/// Why a join token could not be loaded from a file.
#[derive(Debug, thiserror::Error)]
pub enum JoinSecretFileError {
    /// The file could not be read, or others may read it.
    #[error("cannot load the join token")]
    File(#[source] SecretFileError),
    /// The file holds something else.
    #[error("cannot load the join token from `{}`", path.display())]
    Text {
        /// The file.
        path: PathBuf,
        /// What is wrong with its text.
        #[source]
        source: JoinSecretError,
    },
}

impl JoinSecret {
    /// Draws a secret for a mesh whose active root has the SHA-256 `root_fingerprint`.
    pub fn generate(root_fingerprint: [u8; 32]) -> Self {
        Self { root_fingerprint, secret: Zeroizing::new(crypto::random()), servers: Vec::new() }
    }

    /// Returns the same token, which also says where the servers are: those of `servers` that are `host:port`, the first
    /// sixteen of them.
    #[must_use]
    pub fn with_servers<'a>(self, servers: impl IntoIterator<Item = &'a str>) -> Self {
        let servers = servers.into_iter().filter(|server| is_address(server)).take(SERVERS_MAX);
        Self { servers: servers.map(str::to_owned).collect(), ..self }
    }

    /// Reads the join token that the file at `path` holds.
    ///
    /// # Errors
    ///
    /// [`JoinSecretFileError`] if the file is not the owner's alone (mode 0600 or 0400), or holds no join token.
    pub fn load(path: &Path) -> Result<Self, JoinSecretFileError> {
        let text = crypto::read_secret_file(path, FILE_BYTES_MAX).map_err(JoinSecretFileError::File)?;
        text.expose().parse().map_err(|source| JoinSecretFileError::Text { path: path.to_owned(), source })
    }

    /// Returns the token as `weft join-token create` prints it.
    pub fn to_text(&self) -> Secret {
        let fingerprint = BASE64URL_NOPAD.encode(&self.root_fingerprint);
        let servers = self.servers.join(",");
        let at = if servers.is_empty() { "" } else { "@" };
        Secret::new(format!("{PREFIX}{fingerprint}.{}{at}{servers}", self.secret().expose()))
    }

    /// Returns where the servers' ports for agents are, as `host:port`; may be empty.
    pub fn servers(&self) -> &[String] {
        &self.servers
    }

    /// Returns the SHA-256 of the root certificate's DER, the only root that the agent trusts while it joins.
    pub fn root_fingerprint(&self) -> [u8; 32] {
        self.root_fingerprint
    }

    /// Returns the secret as it is sent to a server.
    pub fn secret(&self) -> Secret {
        Secret::new(BASE64URL_NOPAD.encode(self.secret.as_slice()))
    }

    /// Returns what the catalog keeps of the secret.
    pub fn secret_hash(&self) -> SecretHash {
        crypto::secret_hash(&self.secret())
    }
}

impl FromStr for JoinSecret {
    type Err = JoinSecretError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let rest = text.strip_prefix(PREFIX).ok_or(JoinSecretError::Prefix)?;
        let (rest, servers) = match rest.split_once('@') {
            Some((rest, servers)) => (rest, servers.split(',').collect()),
            None => (rest, Vec::new()),
        };
        let (fingerprint, secret) = rest.split_once('.').ok_or(JoinSecretError::Form)?;
        let (root_fingerprint, secret) = (decode(fingerprint)?, decode(secret)?);
        if servers.len() > SERVERS_MAX || !servers.iter().all(|server| is_address(server)) {
            return Err(JoinSecretError::Form);
        }
        Ok(Self {
            root_fingerprint: *root_fingerprint,
            secret,
            servers: servers.into_iter().map(str::to_owned).collect(),
        })
    }
}

impl fmt::Debug for JoinSecret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("JoinSecret([redacted])")
    }
}

impl PartialEq for JoinSecret {
    fn eq(&self, other: &Self) -> bool {
        self.root_fingerprint == other.root_fingerprint
            && self.servers == other.servers
            && crypto::constant_time_eq(self.secret.as_slice(), other.secret.as_slice())
    }
}

impl Eq for JoinSecret {}

/// Says whether this is `host:port`, with what host names and addresses are made of.
fn is_address(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let is_of_host = |byte: u8| byte.is_ascii_alphanumeric() || b".-:[]".contains(&byte);
    text.len() <= ADDRESS_MAX
        && !host.is_empty()
        && host.bytes().all(is_of_host)
        && port.bytes().all(|byte| byte.is_ascii_digit())
        && port.parse::<u16>().is_ok_and(|port| port != 0)
}

fn decode(text: &str) -> Result<Zeroizing<[u8; 32]>, JoinSecretError> {
    let bytes = Zeroizing::new(BASE64URL_NOPAD.decode(text.as_bytes()).map_err(|_| JoinSecretError::Form)?);
    bytes.as_slice().try_into().map(Zeroizing::new).map_err(|_| JoinSecretError::Form)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_printed_is_read_back() {
        let token = JoinSecret::generate([7; 32]);
        let copy: JoinSecret = token.to_text().expose().parse().unwrap();
        assert_eq!(copy, token);
        assert_eq!(copy.root_fingerprint(), [7; 32]);
        assert_eq!(copy.secret(), token.secret());
        assert_ne!(token.secret(), JoinSecret::generate([7; 32]).secret());
    }

    #[test]
    fn it_says_where_the_servers_are() {
        let servers = ["10.0.0.1:8300", "[2001:db8::1]:8300", "weft.example.internal:8300"];
        let token = JoinSecret::generate([7; 32]).with_servers(servers);
        let text = token.to_text();
        assert!(text.expose().ends_with("@10.0.0.1:8300,[2001:db8::1]:8300,weft.example.internal:8300"));
        let copy: JoinSecret = text.expose().parse().unwrap();
        assert_eq!((copy.servers(), &copy), (&servers.map(str::to_owned)[..], &token));
        assert_eq!(copy.secret_hash(), token.secret_hash(), "the catalog knows it by its secret alone");
        let odd = ["", ":1", "a", "a:", "a:0", "a:70000", "a:1 ", "a b:1", "a@b:1", "a,b:1", "a\n:1", "a:+1"];
        assert_eq!(JoinSecret::generate([7; 32]).with_servers(odd).servers(), &[] as &[String]);
        for odd in odd {
            let text = format!("{}@{odd}", JoinSecret::generate([7; 32]).to_text().expose());
            let read = text.parse::<JoinSecret>();
            assert_eq!(read, Err(JoinSecretError::Form), "{odd:?}");
        }
        let many = vec!["a:1"; SERVERS_MAX + 1];
        assert_eq!(JoinSecret::generate([7; 32]).with_servers(many.iter().copied()).servers().len(), SERVERS_MAX);
        let text = format!("{}@{}", JoinSecret::generate([7; 32]).to_text().expose(), many.join(","));
        assert_eq!(text.parse::<JoinSecret>(), Err(JoinSecretError::Form));
    }

    #[test]
    fn c9_the_catalog_keeps_only_a_hash_of_the_secret() {
        let token = JoinSecret::generate([7; 32]);
        assert_eq!(token.secret_hash().0, crypto::sha256_hex(token.secret().expose().as_bytes()));
        assert!(!token.to_text().expose().contains(&token.secret_hash().0));
    }

    #[test]
    fn c9_anything_else_is_refused() {
        let text = JoinSecret::generate([7; 32]).to_text().expose().to_owned();
        let rows = [
            (String::new(), JoinSecretError::Prefix),
            ("weft-cluster-key-v1.AAAA".to_owned(), JoinSecretError::Prefix),
            (format!(" {text}"), JoinSecretError::Prefix),
            (PREFIX.to_owned(), JoinSecretError::Form),
            (format!("{text}A"), JoinSecretError::Form),
            (format!("{text}.AAAA"), JoinSecretError::Form),
            (format!("{text}\n"), JoinSecretError::Form),
            (text[..text.len() - 1].to_owned(), JoinSecretError::Form),
            (text.rsplit_once('.').unwrap().0.to_owned(), JoinSecretError::Form),
        ];
        for (row, want) in rows {
            assert_eq!(row.parse::<JoinSecret>(), Err(want), "{row:?}");
        }
    }

    #[test]
    fn a_token_file_must_be_its_owners_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("join-token");
        let token = JoinSecret::generate([7; 32]);
        fs::write(&path, format!("{}\n", token.to_text().expose())).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(JoinSecret::load(&path).unwrap(), token);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(JoinSecret::load(&path), Err(JoinSecretFileError::File(_))));
    }

    #[test]
    fn a_token_is_not_shown_by_debug() {
        assert_eq!(format!("{:?}", JoinSecret::generate([7; 32])), "JoinSecret([redacted])");
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in ".*") {
            prop_assert!(text.parse::<JoinSecret>().is_err());
            let prefixed = format!("{PREFIX}{text}");
            prop_assert!(prefixed.parse::<JoinSecret>().is_err());
        }
    }
}
