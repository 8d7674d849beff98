//! All cryptography that weft does itself: the only module of the project that calls aws-lc-rs.
//!
//! TLS uses the same library through rustls, and certificates through the keys of [`P256Key`] and [`Ed25519Key`].

mod secret;
mod secret_file;
mod signing_key;

use std::sync::{Arc, LazyLock};
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::{aead, constant_time, digest, hkdf, hmac, rand};
use catalog::{SecretHash, Timestamp};
use data_encoding::HEXLOWER;
use rustls::crypto::CryptoProvider;
use zeroize::Zeroizing;

pub use secret::Secret;
pub use secret_file::{SecretFileError, read_projected_token, read_secret_file};
pub use signing_key::{Ed25519Key, KeyError, P256Key};

/// The length of a SHA-256 digest, of every derived key and of every secret that weft draws.
pub const KEY_BYTES: usize = 32;

/// The length of an AES-256-GCM nonce.
pub const NONCE_BYTES: usize = 12;

/// Makes aws-lc-rs the process's default for everything that uses rustls. Calling it again changes nothing.
pub fn install_provider() {
    // An error only says that a provider is already installed.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}

/// Returns the TLS algorithms of weft: those of aws-lc-rs, X25519MLKEM768 preferred for the key exchange.
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> =
        LazyLock::new(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider()));
    Arc::clone(&PROVIDER)
}

/// Returns the wall clock. It goes backwards when somebody sets it back.
pub fn now() -> Timestamp {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX))
}

/// Returns the SHA-256 digest of `bytes`.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    let digest = digest::digest(&digest::SHA256, bytes);
    digest.as_ref().try_into().expect("a SHA-256 digest has 32 bytes")
}

/// Returns the SHA-256 digest of `bytes` as 64 lower-case hexadecimal digits.
pub fn sha256_hex(bytes: &[u8]) -> String {
    HEXLOWER.encode(&sha256(bytes))
}

/// Returns what the catalog keeps of a token's secret: the SHA-256 of its text.
pub fn secret_hash(secret: &Secret) -> SecretHash {
    SecretHash(sha256_hex(secret.expose().as_bytes()))
}

/// Returns the HMAC-SHA256 of `message` under `key`.
pub fn hmac_sha256(key: &[u8], message: &[u8]) -> [u8; 32] {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), message);
    tag.as_ref().try_into().expect("an HMAC-SHA256 tag has 32 bytes")
}

/// Derives the key named `label` from `secret` by HKDF-SHA256 (RFC 5869).
///
/// `secret` must be uniformly random: HKDF does not strengthen a passphrase.
pub fn derive_key(secret: &[u8; KEY_BYTES], label: &str) -> Zeroizing<[u8; KEY_BYTES]> {
    let pseudorandom_key = hkdf::Salt::new(hkdf::HKDF_SHA256, b"weft").extract(secret);
    let mut key = Zeroizing::new([0; KEY_BYTES]);
    pseudorandom_key
        .expand(&[label.as_bytes()], hkdf::HKDF_SHA256)
        .and_then(|output| output.fill(key.as_mut_slice()))
        .expect("HKDF-SHA256 fills 32 bytes");
    key
}

/// Tells whether two byte strings are equal, in a time that depends on their lengths only.
pub fn constant_time_eq(left: &[u8], right: &[u8]) -> bool {
    constant_time::verify_slices_are_equal(left, right).is_ok()
}

/// Returns `N` bytes from the library's random generator.
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    rand::fill(&mut bytes).expect("the random generator is seeded by the operating system and does not fail");
    bytes
}

/// Returns `bytes` random bytes as hexadecimal digits, two for each byte.
pub fn random_hex(bytes: usize) -> String {
    let mut random = vec![0; bytes];
    rand::fill(&mut random).expect("the random generator is seeded by the operating system and does not fail");
    HEXLOWER.encode(&random)
}

/// Returns a random UUID (RFC 9562 §5.4) in its usual form.
pub fn uuid_v4() -> String {
    uuid(random(), 4)
}

/// Returns the UUID that stands for some bytes (RFC 9562, version 8): the same for the same bytes.
pub fn uuid_of(bytes: &[u8]) -> String {
    let mut short = [0; 16];
    short.copy_from_slice(&sha256(bytes)[..16]);
    uuid(short, 8)
}

fn uuid(mut bytes: [u8; 16], version: u8) -> String {
    bytes[6] = (bytes[6] & 0x0f) | (version << 4);
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    let hex = HEXLOWER.encode(&bytes);
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

/// The ciphertext was made under another key or context, or was changed since.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the sealed bytes do not belong to this key and context, or were altered")]
pub struct NotAuthentic;

/// Encrypts `plaintext` by AES-256-GCM under a fresh random nonce, and binds it to `context`.
///
/// Returns the nonce and the ciphertext with its tag. Random nonces are safe for 2³² messages a key (NIST SP 800-38D);
/// weft seals a handful in the life of one.
pub fn seal(key: &[u8; KEY_BYTES], context: &[u8], plaintext: &[u8]) -> ([u8; NONCE_BYTES], Vec<u8>) {
    let nonce = random::<NONCE_BYTES>();
    // The one buffer is the plaintext's copy first and the ciphertext afterwards, so no plaintext stays behind;
    // its capacity holds the tag too, for a reallocation would leave a copy.
    let mut buffer = Vec::with_capacity(plaintext.len() + aead::AES_256_GCM.tag_len());
    buffer.extend_from_slice(plaintext);
    aead_key(key)
        .seal_in_place_append_tag(aead::Nonce::assume_unique_for_key(nonce), aead::Aad::from(context), &mut buffer)
        .expect("AES-256-GCM seals anything shorter than 64 GiB");
    (nonce, buffer)
}

/// Decrypts what [`seal`] made under the same key and context.
///
/// # Errors
///
/// [`NotAuthentic`] if key, context, nonce or any byte differs.
pub fn open(
    key: &[u8; KEY_BYTES],
    context: &[u8],
    nonce: [u8; NONCE_BYTES],
    ciphertext: &[u8],
) -> Result<Zeroizing<Vec<u8>>, NotAuthentic> {
    let mut buffer = Zeroizing::new(ciphertext.to_vec());
    let nonce = aead::Nonce::assume_unique_for_key(nonce);
    let plaintext_bytes =
        aead_key(key).open_in_place(nonce, aead::Aad::from(context), &mut buffer).map_err(|_| NotAuthentic)?.len();
    buffer.truncate(plaintext_bytes);
    Ok(buffer)
}

fn aead_key(key: &[u8; KEY_BYTES]) -> aead::LessSafeKey {
    let key = aead::UnboundKey::new(&aead::AES_256_GCM, key).expect("an AES-256 key has 32 bytes");
    aead::LessSafeKey::new(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_agree_with_the_published_vectors() {
        assert_eq!(sha256_hex(b"abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        // RFC 4231, test case 2.
        let tag = hmac_sha256(b"Jefe", b"what do ya want for nothing?");
        assert_eq!(HEXLOWER.encode(&tag), "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
    }

    #[test]
    fn derived_keys_differ_by_secret_and_by_label() {
        let key = derive_key(&[1; 32], "a");
        assert_eq!(*key, *derive_key(&[1; 32], "a"));
        assert_ne!(*key, *derive_key(&[1; 32], "b"));
        assert_ne!(*key, *derive_key(&[2; 32], "a"));
    }

    #[test]
    fn what_is_sealed_opens_under_the_same_key_and_context_only() {
        let (nonce, sealed) = seal(&[7; 32], b"context", b"the plaintext");
        assert_eq!(open(&[7; 32], b"context", nonce, &sealed).unwrap().as_slice(), b"the plaintext");
        assert_eq!(open(&[8; 32], b"context", nonce, &sealed), Err(NotAuthentic));
        assert_eq!(open(&[7; 32], b"contexT", nonce, &sealed), Err(NotAuthentic));
        assert_eq!(open(&[7; 32], b"context", [0; NONCE_BYTES], &sealed), Err(NotAuthentic));
        assert_eq!(open(&[7; 32], b"context", nonce, &[]), Err(NotAuthentic));
        for position in 0..sealed.len() {
            let mut altered = sealed.clone();
            altered[position] ^= 1;
            assert_eq!(open(&[7; 32], b"context", nonce, &altered), Err(NotAuthentic), "byte {position}");
        }
    }

    #[test]
    fn every_sealing_draws_its_own_nonce() {
        assert_ne!(seal(&[7; 32], b"", b"same").0, seal(&[7; 32], b"", b"same").0);
    }

    #[test]
    fn identifiers_have_the_form_of_a_random_uuid() {
        let id = uuid_v4();
        let dashes: Vec<_> = id.match_indices('-').map(|(position, _)| position).collect();
        assert_eq!((id.len(), dashes), (36, vec![8, 13, 18, 23]));
        assert_eq!(&id[14..15], "4");
        assert!("89ab".contains(&id[19..20]));
        assert_ne!(id, uuid_v4());
        let made = uuid_of(b"a");
        assert_eq!((made.clone(), made.len(), &made[14..15]), (uuid_of(b"a"), 36, "8"));
        assert_ne!(made, uuid_of(b"b"));
    }

    #[test]
    fn comparison_in_constant_time_is_equality() {
        assert!(constant_time_eq(b"same", b"same"));
        assert!(!constant_time_eq(b"same", b"sane"));
        assert!(!constant_time_eq(b"same", b"same."));
    }
}
