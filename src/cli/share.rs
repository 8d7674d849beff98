//! A share of all, as flags and files say it.

use std::str::FromStr;

/// Is a share of all, from 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Share(pub(super) f64);

impl FromStr for Share {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let share = text.parse::<f64>().ok().filter(|share| (0.0..=1.0).contains(share));
        share.map(Self).ok_or_else(|| format!("`{text}` is no share: write a number from 0 to 1, such as 0.1"))
    }
}

/// Reads a share of which something is left.
pub(super) fn some(text: &str) -> Result<Share, String> {
    let share: Share = text.parse()?;
    if share.0 > 0.0 { Ok(share) } else { Err(format!("`{text}` is none of it: write a number above 0, such as 0.1")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_from_0_to_1() {
        for (text, want) in [
            ("0", Some(0.0)),
            ("0.3", Some(0.3)),
            ("1", Some(1.0)),
            ("1.1", None),
            ("-0.1", None),
            ("NaN", None),
            ("half", None),
        ] {
            assert_eq!(text.parse::<Share>().ok().map(|share| share.0), want, "{text}");
        }
        assert!(some("0").unwrap_err().contains("above 0") && some("0.01").is_ok());
    }
}
