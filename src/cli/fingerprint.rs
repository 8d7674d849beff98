//! The fingerprint of a root, as flags and files say it.

use std::{fmt, str::FromStr};

/// Is the SHA-256 of a root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fingerprint(pub(super) [u8; 32]);

impl FromStr for Fingerprint {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        wire::pki::parse_fingerprint(text).map(Self).ok_or_else(|| {
            anyhow::anyhow!("`{text}` is no SHA-256 of a certificate: write the 64 digits that `weft ca roots` shows")
        })
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

/// Reads one that stands in a flag.
pub(super) fn parse(text: &str) -> Result<Fingerprint, String> {
    text.parse().map_err(|error: anyhow::Error| error.to_string())
}
