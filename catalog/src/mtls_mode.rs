//! Whom a service takes: callers with an identity, or for a while of moving in, any.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::UnknownWord;
use crate::node::words;

/// Says whether a service takes callers without identity, where what comes to it is redirected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MtlsMode {
    /// It does not.
    #[default]
    Strict,
    /// It does, where the `mesh` entry allows it.
    Permissive,
}
words!(MtlsMode, "mTLS mode", "`strict` or `permissive`", { Strict = "strict", Permissive = "permissive" });
