//! `weft operator rekey`: sealing the mesh's secrets with another cluster key.

use std::process::ExitCode;

use clap::Args;
use wire::api_types::RekeyView;

use crate::cli::ApiOptions;
use crate::cli::api::Api;
use crate::cli::output::{Output, pairs};

/// Seal the mesh's secrets anew, with the first cluster key that the servers are configured with.
///
/// To change the cluster key: make one with `weft keygen`; give it to every server as --previous-cluster-key-file and restart
/// them one after the other; exchange the two files and restart them again; run this command; then take the old key away from
/// every server. Backups that were made before need the old key. Ends with status 1 with --status while secrets are left that
/// the first key does not open.
#[derive(Debug, Args)]
pub(in crate::cli) struct Rekey {
    /// Change nothing: show which keys seal how many secrets
    #[arg(long)]
    status: bool,
    /// Go on although a server has not said that it has the key: one that is lost, say
    #[arg(long, conflicts_with = "status")]
    force: bool,
    #[command(flatten)]
    output: Output,
}

pub(super) async fn run(rekey: &Rekey, options: &ApiOptions) -> anyhow::Result<ExitCode> {
    let api = Api::new(options)?;
    let path = "/v1/operator/rekey";
    let force: &[(&str, &str)] = if rekey.force { &[("force", "true")] } else { &[] };
    let found: RekeyView =
        if rekey.status { api.get(path, &[]).await? } else { api.put(path, force, &serde_json::json!({})).await? };
    rekey.output.print(&found, text)?;
    Ok(if rekey.status && found.left > 0 { ExitCode::from(1) } else { ExitCode::SUCCESS })
}

fn text(found: &RekeyView) -> String {
    let mut rows = vec![("First key:", found.primary.clone())];
    rows.extend(found.previous.iter().map(|previous| ("Other key:", previous.clone())));
    rows.extend(found.sealed_with.iter().map(|(key, count)| ("Sealed with:", format!("{key} ({count} secrets)"))));
    let next = match (found.left, &found.previous) {
        (0, Some(previous)) => {
            format!(
                "All secrets are sealed with the first key. Key {previous} may go once every server starts with the first one; keep it for older backups."
            )
        }
        (0, None) => "All secrets are sealed with the first key.".to_owned(),
        (left, _) => format!("{left} secrets are sealed with another key: run `weft operator rekey`."),
    };
    format!("{}\n\n{next}", pairs(&rows))
}
