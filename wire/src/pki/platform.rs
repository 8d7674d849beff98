//! What a workload runs on, in its certificate: an extension of our own, that others pass over.

use catalog::Platform;
use rcgen::CustomExtension;
use x509_parser::certificate::X509Certificate;

/// A name below the arc that Microsoft gives away for GUIDs: this is 6b1d7a3e-52c4-4f0b-9e86-3f2d91c4a57e in decimal parts.
const ARC: [u64; 14] =
    [1, 2, 840, 113_556, 1, 8000, 2554, 27_421, 31_294, 21_188, 20_235, 40_582, 4_140_433, 12_887_422];

/// The tag of a `UTF8String` (X.690 §8.1.2).
const UTF8_STRING: u8 = 0x0C;

/// Writes the platform as an extension that is not critical.
pub(super) fn extension(platform: Platform) -> CustomExtension {
    let word = platform.as_str().as_bytes();
    let length = u8::try_from(word.len()).expect("a platform is one short word");
    CustomExtension::from_oid_content(&ARC, [&[UTF8_STRING, length], word].concat())
}

/// Reads the platform; none where a certificate says nothing, or what this release does not know.
pub(crate) fn read(leaf: &X509Certificate<'_>) -> Option<Platform> {
    let oid = x509_parser::der_parser::oid::Oid::from(&ARC).ok()?;
    let content = leaf.get_extension_unique(&oid).ok()??.value;
    match content {
        [UTF8_STRING, length, word @ ..] if usize::from(*length) == word.len() => {
            std::str::from_utf8(word).ok()?.parse().ok()
        }
        _ => None,
    }
}
