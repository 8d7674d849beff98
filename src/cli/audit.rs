//! `weft audit`: the trail of what was asked of the servers.

use std::{
    fs::{File, OpenOptions},
    io::{BufRead, BufReader, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::Context;
use catalog::{AuditFault, AuditHead, AuditVerifier, CatalogIndex};
use clap::{Args, Subcommand};
use wire::{
    api_types::{AUDIT_BASE_HEADER, AuditRecord},
    client::{Answer, ApiError},
    crypto::sha256,
};

use super::{
    ApiOptions,
    api::Api,
    error::hinted,
    output::{self, Output, table},
};

const TRAIL: &str = "/v1/audit";
/// How many records are asked for at a time.
const PAGE: &str = "1000";
/// How long a server may wait for the next record.
const WAIT: &str = "60s";
const CALL_TIMEOUT: Duration = Duration::from_secs(90);
const RETRY_MAX: Duration = Duration::from_secs(30);
/// No record is longer.
const LINE_BYTES_MAX: u64 = 1 << 20;

/// Read, export and verify the audit trail.
///
/// It has one record for every write that bears on who may do what or on the running of the mesh. Each record carries the
/// hash of the one before it, so that none can be changed, moved or left out unseen.
#[derive(Debug, Subcommand)]
pub(super) enum Audit {
    /// Show up to 1,000 of the records that the servers keep
    List(List),
    /// Append the records to a file, exactly as they were hashed
    Export(Export),
    /// Check exported files without asking a server: status 1 if records were changed, moved or left out
    Verify(Verify),
}

#[derive(Debug, Args)]
pub(super) struct List {
    /// Show records from this log index on
    #[arg(long, value_name = "INDEX", default_value_t = 0)]
    from: u64,
    #[command(flatten)]
    output: Output,
}

/// Append the records to a file, exactly as they were hashed.
///
/// A file that is there already is verified, and goes on where it ends. The head that is printed at last proves the file's
/// end to `weft audit verify --head`: keep it elsewhere.
#[derive(Debug, Args)]
pub(super) struct Export {
    /// The file, made with mode 0600, or `-` for standard output
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Go on for ever, and write each record as it comes
    #[arg(long)]
    follow: bool,
}

/// Check exported files without asking a server: status 1 if records were changed, moved or left out.
#[derive(Debug, Args)]
pub(super) struct Verify {
    /// The files, oldest first; each goes on where the one before it ends
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// The head that the records must hold, as `weft audit export` printed it; without it, a cut at the end cannot be seen
    #[arg(long, value_name = "SEQUENCE:HASH")]
    head: Option<AuditHead>,
}

pub(super) async fn run(verb: Audit, options: &ApiOptions) -> anyhow::Result<ExitCode> {
    match verb {
        Audit::List(list) => {
            let from = list.from.to_string();
            let api = Api::new(options)?;
            let query = [("format", "lines"), ("limit", PAGE), ("from", from.as_str())];
            let answer = api.answer(TRAIL, &query, CALL_TIMEOUT).await?;
            let records: Vec<AuditRecord> = lines_of(&answer)?
                .lines()
                .map(serde_json::from_str)
                .collect::<Result<_, _>>()
                .context("reading the servers' records")?;
            list.output.print(&records, |records| {
                let rows = records.iter().map(|one| {
                    if let Some(forgotten) = &one.forgotten {
                        let (index, nothing) = (one.index.to_string(), String::new);
                        let summary = format!("records {} to {} were forgotten", forgotten.from, one.sequence);
                        return vec![index, nothing(), nothing(), nothing(), summary, nothing()];
                    }
                    let outcome = one.refusal.as_ref().map_or(one.outcome.clone(), |why| format!("refused: {why}"));
                    vec![
                        one.index.to_string(),
                        one.time.clone(),
                        one.actor.clone(),
                        one.kind.clone(),
                        one.summary.clone(),
                        outcome,
                    ]
                });
                table(&["Index", "Time", "Actor", "Kind", "Summary", "Outcome"], rows.collect(), "no records")
            })?;
            Ok(ExitCode::SUCCESS)
        }
        Audit::Export(export) => self::export(&Api::new(options)?, &export).await,
        Audit::Verify(verify) => self::verify(&verify),
    }
}

fn lines_of(answer: &Answer) -> anyhow::Result<&str> {
    std::str::from_utf8(&answer.body).context("reading the servers' records")
}

async fn export(api: &Api, export: &Export) -> anyhow::Result<ExitCode> {
    let mut verifier = AuditVerifier::new(sha256, None);
    let mut file = match export.file.as_os_str().to_str() {
        Some("-") => None,
        _ => Some(open(&export.file, &mut verifier)?),
    };
    let (mut since, mut pause) = (None, Duration::from_secs(1));
    loop {
        let answer = match page(api, verifier.index(), since).await {
            Ok(answer) => answer,
            Err(error) if export.follow && is_passing(&error) => {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(RETRY_MAX);
                since = None;
                continue;
            }
            Err(error) => return Err(error),
        };
        pause = Duration::from_secs(1);
        let lines = lines_of(&answer)?;
        check_reach(&verifier, &answer)?;
        for line in lines.lines() {
            verifier.line(line).context("the servers' records are no chain with those that were exported before")?;
        }
        match &mut file {
            Some(file) => {
                file.write_all(lines.as_bytes()).and_then(|()| file.sync_data()).context("writing the records")?;
            }
            None => output::text(lines)?,
        }
        // A page with nothing in it was the last one; then the next record is waited for.
        since = lines.is_empty().then(|| answer.index()).flatten();
        if lines.is_empty() && !export.follow {
            break;
        }
    }
    let head = format!("Head: {}", verifier.head());
    match file {
        Some(_) => output::line(&head)?,
        // The records are the output; a pipe must not end with something else.
        None => output::note(&head)?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn page(api: &Api, last: CatalogIndex, since: Option<CatalogIndex>) -> anyhow::Result<Answer> {
    let (from, since) = ((last.0 + 1).to_string(), since.map(|since| since.to_string()));
    let mut query = vec![("format", "lines"), ("limit", PAGE), ("from", from.as_str())];
    if let Some(since) = &since {
        query.extend([("index", since.as_str()), ("wait", WAIT)]);
    }
    api.answer(TRAIL, &query, CALL_TIMEOUT).await
}

/// Reports whether the same call may succeed a little later.
fn is_passing(error: &anyhow::Error) -> bool {
    let status = error.downcast_ref::<ApiError>().map(ApiError::status);
    match status {
        Some(Some(status)) => status.is_server_error(),
        Some(None) => true,
        None => false,
    }
}

/// Refuses to go on where the servers have forgotten what comes next.
fn check_reach(verifier: &AuditVerifier, answer: &Answer) -> anyhow::Result<()> {
    let base = answer.headers.get(AUDIT_BASE_HEADER).and_then(|value| value.to_str().ok()?.parse::<AuditHead>().ok());
    let last = verifier.head().sequence;
    match base.filter(|base| verifier.first().is_some() && base.sequence > last) {
        Some(base) => Err(hinted(
            format!("the servers keep no records {} to {} any more", last + 1, base.sequence),
            "begin a new file, and export more often or with --follow",
        )),
        None => Ok(()),
    }
}

/// Opens the file to append to, having verified what is in it.
fn open(path: &Path, verifier: &mut AuditVerifier) -> anyhow::Result<File> {
    let what = || format!("opening `{}`", path.display());
    if path.exists() {
        follow(path, verifier)?.map_err(|fault| {
            hinted(format!("`{}`: {fault}", path.display()), "move it away, and export into a new file")
        })?;
    }
    OpenOptions::new().append(true).create(true).mode(0o600).open(path).with_context(what)
}

fn verify(arguments: &Verify) -> anyhow::Result<ExitCode> {
    let mut verifier = AuditVerifier::new(sha256, arguments.head);
    for path in &arguments.files {
        if let Err(fault) = follow(path, &mut verifier)? {
            output::line(&format!("`{}`: {fault}", output::printable(&path.display().to_string())))?;
            return Ok(ExitCode::from(1));
        }
    }
    let (first, forgotten) = (verifier.first(), verifier.forgotten());
    match verifier.finish() {
        Ok(head) => {
            match first {
                None => output::line("There are no records.")?,
                Some(1) => output::line(&format!("All {} records are as they were written.", head.sequence))?,
                Some(first) => output::line(&format!(
                    "Records {first} to {} are as they were written; those before are in another file.",
                    head.sequence
                ))?,
            }
            if forgotten > 0 {
                output::line(&format!(
                    "{forgotten} of them the servers had forgotten before they were exported; an older export proves what stands \
                     before these."
                ))?;
            }
            output::line(&format!("Head: {head}"))?;
            Ok(ExitCode::SUCCESS)
        }
        Err(fault) => {
            output::line(&fault.to_string())?;
            Ok(ExitCode::from(1))
        }
    }
}

/// Leads a verifier through a file.
fn follow(path: &Path, verifier: &mut AuditVerifier) -> anyhow::Result<Result<(), AuditFault>> {
    let what = || format!("reading `{}`", path.display());
    let mut reader = BufReader::new(File::open(path).with_context(what)?);
    let mut line = String::new();
    loop {
        line.clear();
        let read = reader.by_ref().take(LINE_BYTES_MAX).read_line(&mut line);
        match read {
            Ok(0) => return Ok(Ok(())),
            Err(error) if error.kind() == std::io::ErrorKind::InvalidData => {
                return Ok(Err(AuditFault::Unreadable { problem: "it is not text".to_owned() }));
            }
            read => read.with_context(what)?,
        };
        let Some(record) = line.strip_suffix('\n') else {
            return Ok(Err(AuditFault::Unreadable { problem: "the last line has no end".to_owned() }));
        };
        if let Err(fault) = verifier.line(record) {
            return Ok(Err(fault));
        }
    }
}
