//! Ids for requests that came without one.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};

use http::header::HeaderValue;
use wire::crypto;

/// Makes ids that are unlike those of any other process, and no secret.
#[derive(Debug)]
pub(crate) struct RequestIds {
    process: u64,
    count: AtomicU64,
}

impl Default for RequestIds {
    fn default() -> Self {
        let seed: [u8; 16] = crypto::random();
        let [process, count] = [0, 8].map(|from| {
            let bytes = seed.get(from..from + 8).and_then(|bytes| bytes.try_into().ok()).unwrap_or_default();
            u64::from_le_bytes(bytes)
        });
        Self { process, count: AtomicU64::new(count) }
    }
}

impl RequestIds {
    /// Makes the start of a trace that nobody has asked to keep (W3C Trace Context, version 00).
    pub(crate) fn trace(&self) -> HeaderValue {
        let count = self.count.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        let mut text = String::with_capacity(55);
        // Writing to a string cannot fail; neither half is zero but once in a lifetime of the universe.
        let _ = write!(text, "00-{:016x}{count:016x}-{:016x}-00", self.process | 1, count | 1);
        HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static(""))
    }

    /// Makes one, written like a UUID.
    pub(crate) fn next(&self) -> HeaderValue {
        let count = self.count.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        let process = self.process;
        let mut text = String::with_capacity(36);
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "{:08x}-{:04x}-4{:03x}-8{:03x}-{:012x}",
            process >> 32,
            (process >> 16) & 0xffff,
            process & 0xfff,
            count >> 52,
            count & 0xffff_ffff_ffff
        );
        HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static("unknown"))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn ids_differ_and_look_like_those_of_others() {
        let (one, other) = (RequestIds::default(), RequestIds::default());
        let ids: HashSet<String> = (0..2000)
            .map(|index| if index % 2 == 0 { one.next() } else { other.next() })
            .map(|id| id.to_str().unwrap().to_owned())
            .collect();
        assert_eq!(ids.len(), 2000);
        assert!(ids.iter().all(|id| id.len() == 36 && id.split('-').map(str::len).eq([8, 4, 4, 4, 12])), "{ids:?}");
    }
}
