//! What a process counts, read as a monitoring system reads it.

use super::Response;

/// Why handshakes are refused where a side does not know the other's root, or has a certificate that counts no more; what is
/// late on a busy machine is none of it.
pub(crate) const BY_CERTIFICATES: [&str; 6] =
    ["unknown_authority", "expired", "not_yet_valid", "foreign_trust_domain", "name_constraints", "wrong_identity"];

/// Is one answer of `/metrics`.
#[derive(Debug)]
pub(crate) struct Metrics {
    text: String,
}

impl Metrics {
    #[track_caller]
    pub(crate) fn new(answer: Response) -> Self {
        assert_eq!(answer.status, 200, "{answer:?}");
        assert!(answer.body.ends_with("# EOF\n"), "the answer is whole: {answer:?}");
        Self { text: answer.body }
    }

    /// Adds up the samples of a name that have all of these labels; 0 where there is none.
    #[track_caller]
    pub(crate) fn sum(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        let labels: Vec<String> = labels.iter().map(|(label, value)| format!("{label}=\"{value}\"")).collect();
        let samples = self.text.lines().filter_map(|line| line.strip_prefix(name)).filter(|rest| {
            let is_whole_name = rest.starts_with([' ', '{']);
            is_whole_name && labels.iter().all(|label| rest.contains(label))
        });
        samples.map(|rest| rest.rsplit(' ').next().and_then(|value| value.parse::<u64>().ok()).expect("a count")).sum()
    }
}
