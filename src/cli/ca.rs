//! `weft ca`: the certificate authority.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context;
use clap::{Args, Subcommand};
use serde::{Deserialize, Serialize};
use wire::api_types::{CaIntermediateRequest, CaRotateRequest, CaRotationView, CertificateAge};

use super::{
    ApiOptions,
    api::Api,
    output::{Output, instant, line, pairs, printable, table},
};

/// Longest key file that is read.
const KEY_BYTES_MAX: u64 = 64 * 1024;

/// Look at the certificate authority, and rotate it.
#[derive(Debug, Subcommand)]
pub(super) enum Ca {
    /// List the roots that the mesh trusts
    Roots(Roots),
    /// Replace the root and the intermediate, without an outage
    Rotate(Rotate),
    /// Take back a rotation whose root is not active yet
    CancelRotation,
    /// Take a root that is not active any more from everybody at once, and cut what only it vouches for
    Distrust(Distrust),
    /// Have an intermediate of your own sign the mesh's certificates
    SetIntermediate(SetIntermediate),
    /// Show how old the certificates are that the mesh and the answering server use
    Ages(Ages),
}

#[derive(Debug, Args)]
pub(super) struct Roots {
    #[command(flatten)]
    output: Output,
}

/// Replace the root and the intermediate, without an outage.
///
/// The leader takes it through its steps: every agent is told of the new root and says that it trusts it; the new root,
/// certified by the old one, starts to sign; agents have their certificates signed anew, spread over ten minutes at most;
/// the old root leaves once the last certificate under it has expired. It goes on whichever server leads, and this command
/// does not wait for it. Without --plan it needs `operator = "write"`.
#[derive(Debug, Args)]
pub(super) struct Rotate {
    /// Change nothing: show how a rotation stands and whether one would be safe now; ends with status 1 if not
    #[arg(long)]
    plan: bool,
    /// Distrust the old root at the end, because its key may be known: what still lives under it then is cut
    #[arg(long, conflicts_with = "plan")]
    distrust_old: bool,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Args)]
pub(super) struct Distrust {
    /// The root's id, as `weft ca roots` shows it
    #[arg(value_name = "ROOT")]
    root: String,
}

/// Have an intermediate of your own sign the mesh's certificates.
///
/// Its root joins the bundle first, as in a rotation; the root's key stays where it is. The key must be ECDSA P-256 in
/// PKCS#8, in a file of mode 0600. Certificates with name constraints on URIs are refused: no SPIFFE ID can be verified under
/// them. The mesh cannot renew your intermediate: give the next one before half of its life is over.
#[derive(Debug, Args)]
pub(super) struct SetIntermediate {
    /// The root's certificate, PEM
    #[arg(long, value_name = "FILE")]
    root_file: PathBuf,
    /// The intermediate's certificate, PEM
    #[arg(long, value_name = "FILE")]
    certificate_file: PathBuf,
    /// The intermediate's key, PEM
    #[arg(long, value_name = "FILE")]
    key_file: PathBuf,
    #[command(flatten)]
    output: Output,
}

/// Show how old the certificates are that the mesh and the answering server use.
///
/// Ends with status 1 while one is critical: with less than 15 % of its life left.
#[derive(Debug, Args)]
pub(super) struct Ages {
    #[command(flatten)]
    output: Output,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Shown {
    #[serde(rename = "ActiveRootID")]
    active: String,
    trust_domain: String,
    roots: Vec<Root>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Root {
    #[serde(rename = "ID")]
    id: String,
    name: String,
    not_after: String,
    active: bool,
    root_cert: String,
    #[serde(flatten)]
    rest: std::collections::BTreeMap<String, serde_json::Value>,
}

pub(super) async fn run(verb: Ca, options: &ApiOptions) -> anyhow::Result<ExitCode> {
    let api = Api::new(options)?;
    match verb {
        Ca::Roots(roots) => show_roots(&api, &roots).await,
        Ca::Rotate(rotate) => begin(&api, &rotate).await,
        Ca::CancelRotation => {
            api.delete("/v1/connect/ca/rotation", &[]).await?;
            line("The rotation is taken back.")?;
            Ok(ExitCode::SUCCESS)
        }
        Ca::Distrust(distrust) => {
            api.write_to("/v1/connect/ca/distrust", &distrust.root, &[]).await?;
            line(&format!("Root {} is distrusted.", printable(&distrust.root)))?;
            Ok(ExitCode::SUCCESS)
        }
        Ca::SetIntermediate(given) => set_intermediate(&api, &given).await,
        Ca::Ages(ages) => show_ages(&api, &ages).await,
    }
}

/// Returns the roots that the mesh trusts, PEM.
pub(super) async fn roots_pem(api: &Api) -> anyhow::Result<String> {
    let found: Shown = api.get("/v1/connect/ca/roots", &[]).await?;
    Ok(found.roots.into_iter().map(|root| root.root_cert).collect())
}

async fn show_roots(api: &Api, roots: &Roots) -> anyhow::Result<ExitCode> {
    let found: Shown = api.get("/v1/connect/ca/roots", &[]).await?;
    roots.output.print(&found, |shown| {
        let rows = shown.roots.iter().map(|root| {
            let active = if root.active { "yes" } else { "no" };
            vec![root.id.clone(), root.name.clone(), root.not_after.clone(), active.to_owned()]
        });
        let rows = table(&["ID", "Name", "Ends", "Active"], rows.collect(), "no roots");
        format!("Trust domain: {}\n\n{rows}", printable(&shown.trust_domain))
    })?;
    Ok(ExitCode::SUCCESS)
}

async fn begin(api: &Api, rotate: &Rotate) -> anyhow::Result<ExitCode> {
    if rotate.plan {
        let found: CaRotationView = api.get("/v1/connect/ca/rotation", &[]).await?;
        rotate.output.print(&found, plan)?;
        return Ok(if found.safe { ExitCode::SUCCESS } else { ExitCode::from(1) });
    }
    let request = CaRotateRequest { distrust_old: rotate.distrust_old };
    let begun: CaRotationView = api.put("/v1/connect/ca/rotate", &[], &request).await?;
    rotate.output.print(&begun, progress)?;
    Ok(ExitCode::SUCCESS)
}

async fn set_intermediate(api: &Api, given: &SetIntermediate) -> anyhow::Result<ExitCode> {
    let read = |path: &PathBuf| {
        std::fs::read_to_string(path).with_context(|| format!("reading the certificate file `{}`", path.display()))
    };
    let request = CaIntermediateRequest {
        root_cert: read(&given.root_file)?,
        intermediate_cert: read(&given.certificate_file)?,
        private_key: wire::crypto::read_secret_file(&given.key_file, KEY_BYTES_MAX)
            .with_context(|| format!("reading the key file `{}`", given.key_file.display()))?,
    };
    let begun: CaRotationView = api.put("/v1/connect/ca/intermediate", &[], &request).await?;
    given.output.print(&begun, progress)?;
    Ok(ExitCode::SUCCESS)
}

async fn show_ages(api: &Api, ages: &Ages) -> anyhow::Result<ExitCode> {
    let found: Vec<CertificateAge> = api.get("/v1/status/certificates", &[]).await?;
    ages.output.print(&found, |found| {
        let rows = found.iter().map(|age| {
            vec![
                age.certificate.clone(),
                instant(age.ends_at),
                format!("{} %", age.left_percent),
                age.status.to_string(),
            ]
        });
        table(&["Certificate", "Ends", "Left", "Status"], rows.collect(), "no certificates yet")
    })?;
    let is_critical = found.iter().any(|age| age.status == catalog::CheckStatus::Critical);
    Ok(if is_critical { ExitCode::from(1) } else { ExitCode::SUCCESS })
}

fn plan(found: &CaRotationView) -> String {
    let answer = if found.safe { "yes" } else { "no" };
    let mut lines = vec![progress(found), format!("Safe to rotate now: {answer}")];
    lines.extend(found.reasons.iter().map(|reason| format!("  because {}", printable(reason))));
    lines.extend(found.notes.iter().map(|note| format!("  note: {}", printable(note))));
    lines.join("\n")
}

fn progress(found: &CaRotationView) -> String {
    let mut rows = vec![("Active root:", found.active_root.clone())];
    if let Some(rotation) = &found.rotation {
        rows.push(("Rotating to:", rotation.root.clone()));
        rows.push(("Step:", rotation.step.clone()));
        let named = rotation.nodes.join(", ");
        let more = if rotation.waiting_for > rotation.nodes.len() { ", ..." } else { "" };
        rows.push(("Waiting for:", format!("{} agents {}{more}", rotation.waiting_for, printable(&named))));
        rows.push(("Goes on at:", instant(rotation.goes_on_at)));
    }
    rows.extend(found.replaced.iter().map(|root| ("Retires:", format!("{} at {}", root.id, instant(root.retires_at)))));
    pairs(&rows)
}
