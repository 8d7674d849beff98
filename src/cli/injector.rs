//! `weft injector`: the webhook that puts agents into the pods of a Kubernetes cluster.

use std::{net::SocketAddr, path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context;
use clap::Args;
use connectors::kubernetes::{
    inject::Settings,
    injector::{Injector as Running, InjectorConfig},
};
use tokio::sync::watch;

use super::{
    config_file,
    daemon::{self, LogOptions},
    inject::settings::InjectorSettings,
    settings::{Told, read_all},
};

/// How often files of settings are looked at: roots are told by one that changes while the injector runs. It is asked for and not
/// waited for, since a kubelet itself looks but once a minute, and a volume may be of a kind that tells of no change.
const PERIOD: Duration = Duration::from_secs(10);

/// Run the injector of a Kubernetes cluster.
///
/// The API server asks it about new pods of namespaces that are labelled `weft.dev/inject: enabled`. It makes its own
/// certificate authority, keeps it in a Secret and tells it to its MutatingWebhookConfiguration; both must exist. Any number
/// of them may run. Files of settings are read again when they change; until they are complete, no pod is answered for.
#[derive(Debug, Args)]
pub(super) struct Injector {
    /// Where the API server's calls are taken
    #[arg(long, default_value = "[::]:9443", value_name = "ADDRESS:PORT")]
    listen: SocketAddr,
    /// The namespace of the injector's Service and Secret
    #[arg(long, env = "POD_NAMESPACE", value_name = "NAME")]
    pod_namespace: String,
    /// The Service by which the API server calls it
    #[arg(long, default_value = "weft-injector", value_name = "NAME")]
    service: String,
    /// The Secret that holds its authority
    #[arg(long, default_value = "weft-injector", value_name = "NAME")]
    secret: String,
    /// The MutatingWebhookConfiguration that it keeps
    #[arg(long, default_value = "weft-injector", value_name = "NAME")]
    webhook_configuration: String,
    /// A file of settings (the names of these flags with underscores), or a directory; may be given several times
    #[arg(long, value_name = "PATH")]
    config: Vec<PathBuf>,
    #[command(flatten)]
    settings: InjectorSettings,
    #[command(flatten)]
    log: LogOptions,
}

pub(super) async fn run(arguments: Injector) -> anyhow::Result<ExitCode> {
    let config = InjectorConfig {
        listen: arguments.listen,
        namespace: arguments.pod_namespace,
        service: arguments.service,
        secret: arguments.secret,
        configuration: arguments.webhook_configuration,
    };
    daemon::prepare(&arguments.log)?;
    let (told, settings) = watch::channel(None);
    let injector = Running::start(config, settings).await.context("cannot start the injector")?;
    let (paths, flags) = (arguments.config, arguments.settings);
    let mut failed_with = String::new();
    let mut reload = || reload(&paths, &flags, &told, &mut failed_with);
    reload();
    let following = async {
        loop {
            tokio::time::sleep(PERIOD).await;
            reload();
        }
    };
    tokio::select! {
        stopped = daemon::stop_signal() => stopped?,
        () = following => {}
    }
    injector.drain().await;
    Ok(ExitCode::SUCCESS)
}

/// Reads the settings anew; what cannot be used changes nothing.
fn reload(
    paths: &[PathBuf],
    flags: &InjectorSettings,
    told: &watch::Sender<Option<Arc<Settings>>>,
    failed_with: &mut String,
) {
    let read = || -> anyhow::Result<Settings> {
        let settings: InjectorSettings = read_all(&config_file::sources(paths), &[])?;
        settings.under(flags.clone()).injection()
    };
    match read() {
        Ok(settings) => {
            failed_with.clear();
            let is_new = told.send_if_modified(|known| {
                let is_new = known.as_deref() != Some(&settings);
                if is_new {
                    *known = Some(Arc::new(settings));
                }
                is_new
            });
            if is_new {
                tracing::info!("settings read");
            }
        }
        // Once for each reason, for it may last.
        Err(error) if *failed_with != format!("{error:#}") => {
            *failed_with = format!("{error:#}");
            tracing::warn!(error = failed_with, "settings cannot be used");
        }
        Err(_) => {}
    }
}
