//! `weft inject`: puts agents into pods before they are handed to Kubernetes.

pub(super) mod settings;

use std::{
    io::Read,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context;
use clap::Args;
use connectors::kubernetes::inject::{Knobs, Outcome, inject_documents};

use super::{
    config_file,
    error::hinted,
    output,
    settings::{Told, read_all},
};
use settings::InjectorSettings;

/// No file is longer.
const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Put agents into the pods of YAML files, as the injector of a cluster does to pods that are made there.
///
/// Writes all documents to standard output, with an agent in each Pod, Deployment, StatefulSet, DaemonSet, ReplicaSet, Job
/// and CronJob, also within Lists. What was injected before is replaced, so doing it twice changes nothing. Comments are
/// not kept.
///
///   weft inject --config injector.hcl --file shop.yaml | kubectl apply -f -
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Inject {
    /// A file of YAML or JSON documents, or `-` for standard input; may be given several times
    #[arg(short = 'f', long = "file", value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// A file of settings (the names of these flags with underscores); may be given several times
    #[arg(long, value_name = "PATH")]
    config: Vec<PathBuf>,
    #[command(flatten)]
    settings: InjectorSettings,
}

pub(super) fn run(inject: Inject) -> anyhow::Result<ExitCode> {
    let settings: InjectorSettings = read_all(&config_file::sources(&inject.config), &[])?;
    let settings = settings.under(inject.settings).injection()?;
    let (mut text, mut found) = (String::new(), 0);
    for path in &inject.files {
        let what = || format!("injecting `{}`", path.display());
        // Whoever types the command decides; in a cluster, the namespace's label does.
        let injected = inject_documents(&read_text(path)?, &settings, Knobs::Granted).with_context(what)?;
        if !text.is_empty() && !injected.yaml.is_empty() {
            text.push_str("---\n");
        }
        text.push_str(&injected.yaml);
        for (what, outcome) in &injected.outcomes {
            found += 1;
            tell(what, outcome)?;
        }
    }
    if found == 0 {
        output::note("nothing that makes pods was found")?;
    }
    output::text(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// Says on standard error what became of one pod, for standard output holds the documents.
fn tell(what: &str, outcome: &Outcome) -> anyhow::Result<()> {
    match outcome {
        Outcome::Injected { warnings } => {
            output::note(&output::printable(&format!("{what}: injected")))?;
            warnings
                .iter()
                .try_for_each(|warning| output::note(&output::printable(&format!("{what}: warning: {warning}"))))
        }
        Outcome::LeftAlone { reason } => output::note(&output::printable(&format!("{what}: left as it is: {reason}"))),
    }
}

fn read_text(path: &Path) -> anyhow::Result<String> {
    let what = || format!("reading `{}`", path.display());
    let mut text = String::new();
    let read = if path == Path::new("-") {
        std::io::stdin().lock().take(FILE_BYTES_MAX + 1).read_to_string(&mut text)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text))
    };
    let bytes = read.with_context(what)?;
    if bytes as u64 > FILE_BYTES_MAX {
        return Err(hinted("it is too long", "give at most 16 MiB")).with_context(what);
    }
    Ok(text)
}
