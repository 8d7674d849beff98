//! How two sides of a TLS connection agreed on their keys.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::node::{UnknownWord, words};

/// Says how strong a key exchange is, the weakest first. It is about keys only: certificates are signed by ECDSA either way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeyExchange {
    /// By elliptic curves alone: what is recorded today can be read once a large quantum computer exists.
    #[default]
    Classical,
    /// By an elliptic curve and ML-KEM together (X25519MLKEM768): both must be broken.
    Hybrid,
}
words!(KeyExchange, "key exchange", "`classical` or `hybrid`", { Classical = "classical", Hybrid = "hybrid" });

impl KeyExchange {
    /// Reports whether it is the weakest, which as a floor lets every connection through.
    #[must_use]
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands it over so")]
    pub(crate) fn is_classical(&self) -> bool {
        *self == Self::Classical
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hybrid_exchange_is_the_stronger_one() {
        assert!(KeyExchange::Hybrid > KeyExchange::Classical && KeyExchange::default() == KeyExchange::Classical);
        for exchange in [KeyExchange::Classical, KeyExchange::Hybrid] {
            assert_eq!(exchange.as_str().parse(), Ok(exchange));
            assert_eq!(serde_json::to_string(&exchange).unwrap(), format!("\"{exchange}\""));
        }
    }
}
