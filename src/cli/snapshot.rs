//! `weft snapshot`: backups of the servers' state.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, Subcommand};
use serde::Serialize;
use wire::{
    api_types::RestoreAnswer,
    backup::{self, ARCHIVE_BYTES_MAX, Backup, BackupMeta},
};

use super::{
    ApiOptions,
    api::Api,
    error::hinted,
    output::{self, Output, pairs},
};

/// How long a backup may take on its way.
const TIMEOUT: Duration = Duration::from_secs(15 * 60);

/// Save the servers' state to a file, look into one, and restore it.
#[derive(Debug, Subcommand)]
pub(super) enum Snapshot {
    /// Save the state to a file
    Save(Save),
    /// Check a file and show what it holds; asks no server
    Inspect(Inspect),
    /// Put the state in a file in force
    Restore(Restore),
}

/// Save the state to a file.
///
/// The file has mode 0600 and is read back and checked before the command says that it is done. Private keys in it are
/// sealed with the cluster key, and tokens are hashes: keep the cluster key too, and elsewhere.
#[derive(Debug, Args)]
pub(super) struct Save {
    /// The file to write; one that is there is replaced once the new one is whole
    file: PathBuf,
    /// Take what the asked server knows, without a leader; the audit trail then does not have it
    #[arg(long)]
    stale: bool,
}

#[derive(Debug, Args)]
pub(super) struct Inspect {
    /// The file
    file: PathBuf,
    #[command(flatten)]
    output: Output,
}

/// Put the state in a file in force, all of it or nothing.
///
/// A backup of this cluster brings back tokens, intentions, config entries and the nodes that no agent stands on. Agents
/// that are enrolled now stay, with their nodes and services; so do revocations, used join tokens and the certificate
/// authority. Tokens of logins that are revoked now stay out; how many come back that were deleted since is printed. A
/// backup of another cluster replaces these too: it needs --force-cluster, the same trust domain, and the
/// other cluster's key as the servers' previous cluster key.
#[derive(Debug, Args)]
pub(super) struct Restore {
    /// The file
    file: PathBuf,
    /// Restore it even if it is of another cluster
    #[arg(long)]
    force_cluster: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Shown {
    #[serde(flatten)]
    meta: BackupMeta,
    nodes: usize,
    services: usize,
    intentions: usize,
    tokens: usize,
    agents: usize,
}

pub(super) async fn run(verb: Snapshot, options: &ApiOptions) -> anyhow::Result<ExitCode> {
    match verb {
        Snapshot::Save(save) => {
            let stale: &[(&str, &str)] = if save.stale { &[("stale", "")] } else { &[] };
            let bytes = Api::new(options)?.download("/v1/snapshot", stale, ARCHIVE_BYTES_MAX, TIMEOUT).await?;
            let meta = keep(&save.file, &bytes)?;
            output::line(&format!("Saved: {} (index {}, {} bytes)", save.file.display(), meta.index, bytes.len()))?;
        }
        Snapshot::Inspect(inspect) => {
            let Backup { meta, catalog, .. } = read(&inspect.file)?;
            let services: std::collections::BTreeSet<_> = catalog
                .nodes()
                .flat_map(|node| catalog.instances_on(&node.name))
                .map(|one| one.service_key())
                .collect();
            let shown = Shown {
                nodes: catalog.nodes().count(),
                services: services.len(),
                intentions: catalog.intentions().count(),
                tokens: catalog.tokens().count(),
                agents: catalog.agent_records().count(),
                meta,
            };
            inspect.output.print(&shown, table)?;
        }
        Snapshot::Restore(restore) => {
            // Refused here already if it is damaged: nothing of it should travel.
            let meta = read(&restore.file)?.meta;
            let bytes = fs::read(&restore.file).with_context(|| reading(&restore.file))?;
            let force: &[(&str, &str)] = if restore.force_cluster { &[("force-cluster", "")] } else { &[] };
            let answer: RestoreAnswer = Api::new(options)?.upload("/v1/snapshot", force, bytes, TIMEOUT).await?;
            output::line(&format!("Restored: the state at index {} of cluster {}", meta.index, meta.cluster_id))?;
            for line in remarks(&answer) {
                output::line(&line)?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Says what is not as the backup has it, and what is to be looked at.
fn remarks(answer: &RestoreAnswer) -> Vec<String> {
    let counted = [
        (answer.tokens_back, "tokens that were deleted since are in force again: look at `weft acl token list`"),
        (answer.tokens_left_out, "tokens stayed out: their login is revoked, or their auth method was deleted"),
        (answer.nodes_left_out, "nodes stayed out: an agent has enrolled under their name"),
        (
            answer.nodes_forsaken,
            "nodes are of connectors that are not there: run these again, or `weft connector remove` each",
        ),
    ];
    counted.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")).collect()
}

fn table(shown: &Shown) -> String {
    let meta = &shown.meta;
    pairs(&[
        ("Cluster", meta.cluster_id.clone()),
        ("Datacenter", meta.datacenter.clone()),
        ("Trust domain", meta.trust_domain.clone()),
        ("Index", meta.index.to_string()),
        ("Taken", meta.taken_at.clone()),
        ("From server", meta.server.clone()),
        ("Release", meta.release.clone()),
        ("State", format!("{} bytes", meta.state_bytes)),
        ("Nodes", shown.nodes.to_string()),
        ("Services", shown.services.to_string()),
        ("Intentions", shown.intentions.to_string()),
        ("Tokens", shown.tokens.to_string()),
        ("Agents", shown.agents.to_string()),
    ])
}

fn reading(path: &Path) -> String {
    format!("reading backup `{}`", path.display())
}

fn read(path: &Path) -> anyhow::Result<Backup> {
    let length = fs::metadata(path).with_context(|| reading(path))?.len();
    if length > ARCHIVE_BYTES_MAX as u64 {
        let what = format!("backup `{}` has {length} bytes, and {ARCHIVE_BYTES_MAX} are read at most", path.display());
        return Err(hinted(what, "name a file that `weft snapshot save` wrote"));
    }
    let bytes = fs::read(path).with_context(|| reading(path))?;
    backup::read(&bytes).with_context(|| reading(path))
}

/// Writes a backup under a temporary name, syncs it, reads it back, and only then gives it its name.
fn keep(path: &Path, bytes: &[u8]) -> anyhow::Result<BackupMeta> {
    let writing = || format!("writing backup `{}`", path.display());
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = path
        .file_name()
        .ok_or_else(|| hinted(format!("`{}` is not the name of a file", path.display()), "name the file to write"))?;
    let temporary = directory.join(format!(".{}.{}.new", name.to_string_lossy(), std::process::id()));
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()
    })();
    let checked = written.with_context(writing).and_then(|()| Ok(read(&temporary)?.meta)).and_then(|meta| {
        fs::rename(&temporary, path).with_context(writing)?;
        Ok(meta)
    });
    if checked.is_err() {
        // What is left of it is no backup.
        let _ = fs::remove_file(&temporary);
    }
    let meta = checked?;
    File::open(directory).and_then(|directory| directory.sync_all()).with_context(writing)?;
    Ok(meta)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s2_what_is_no_backup_is_never_kept_under_the_name_that_was_asked_for() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("backup");
        fs::write(&path, b"the one before").unwrap();
        keep(&path, b"half of a backup").unwrap_err();
        assert_eq!(fs::read(&path).unwrap(), b"the one before");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "nothing else is left behind");
    }
}
