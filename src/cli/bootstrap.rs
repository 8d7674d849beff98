//! `weft bootstrap`: makes new servers ready for the Kubernetes cluster that they run in.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context;
use clap::Args;
use connectors::kubernetes::{
    ClusterName,
    bootstrap::{Bootstrap as Steps, BootstrapConfig, PodLogins},
};

use super::{
    ApiOptions,
    daemon::{self, LogOptions},
    error::{hinted, hinted_by},
};

/// Make new servers ready for the Kubernetes cluster that they run in.
///
/// Makes the first management token and keeps it in a Secret, lets the cluster's pods log in as the services of their service
/// accounts unless --without-pod-logins, tells the roots by which the servers are known, and gives the cluster's connector a
/// token. Each step does only what is missing, so it may run at any time and more than once; what was changed afterwards is
/// left alone. It goes on, for roots change, unless --once.
#[derive(Debug, Args)]
pub(super) struct Bootstrap {
    /// The file that holds the servers' cluster key
    #[arg(long, value_name = "FILE")]
    cluster_key_file: PathBuf,
    /// The namespace of the Secret and of the ConfigMap
    #[arg(long, env = "POD_NAMESPACE", value_name = "NAME")]
    pod_namespace: String,
    /// The Secret that holds the first token, as `token`; it must exist
    #[arg(long, default_value = "weft-bootstrap-token", value_name = "NAME")]
    token_secret: String,
    /// The Secret that holds the token of the cluster's connector, as `token`; it must exist [default: none is made]
    #[arg(long, value_name = "NAME")]
    connector_token_secret: Option<String>,
    /// The cluster's name, where pods of several are in the mesh: it ends the names of their nodes, as the injector's does
    #[arg(long, value_name = "NAME")]
    cluster_name: Option<ClusterName>,
    /// The ConfigMap that tells the roots, as `roots.json` and `ca.pem`; it must exist
    #[arg(long, default_value = "weft-roots", value_name = "NAME")]
    roots: String,
    /// The auth method of the cluster's pods
    #[arg(long, default_value = "kubernetes", value_name = "NAME")]
    auth_method: String,
    /// The audience of their tokens [default: weft/<cluster id>, one of this mesh alone]
    #[arg(long, value_name = "NAME")]
    audience: Option<String>,
    /// Make no auth method: no pod of this cluster is to log in
    #[arg(long, conflicts_with_all = ["auth_method", "audience", "cluster_name"])]
    without_pod_logins: bool,
    /// End when everything is done, or failed
    #[arg(long)]
    once: bool,
    #[command(flatten)]
    log: LogOptions,
}

pub(super) async fn run(arguments: Bootstrap, options: &ApiOptions) -> anyhow::Result<ExitCode> {
    daemon::prepare(&arguments.log)?;
    if options.token_file.is_some() || options.cacert.is_some() {
        let what = "`weft bootstrap` makes a token of its own, and asks the server beside it without TLS";
        return Err(hinted(what, "leave out --token-file and --cacert, and the variables that stand for them"));
    }
    let steps = Steps::new(BootstrapConfig {
        api: options.http_addr.clone(),
        cluster_key_file: arguments.cluster_key_file,
        namespace: arguments.pod_namespace,
        token_secret: arguments.token_secret,
        roots: arguments.roots,
        connector_token: arguments.connector_token_secret,
        pod_logins: (!arguments.without_pod_logins).then_some(PodLogins {
            auth_method: arguments.auth_method,
            audience: arguments.audience,
            cluster_name: arguments.cluster_name,
        }),
    })
    .await
    .map_err(|error| {
        let failed = format!("cannot make the servers at {} ready for the cluster", options.http_addr);
        hinted_by(
            error.into(),
            failed,
            "look at --cluster-key-file, and at KUBECONFIG where this runs outside of the cluster",
        )
    })?;
    if arguments.once {
        steps.once().await.context("the servers are not ready for this cluster")?;
        return Ok(ExitCode::SUCCESS);
    }
    tokio::select! {
        stopped = daemon::stop_signal() => stopped?,
        () = steps.run() => {}
    }
    Ok(ExitCode::SUCCESS)
}
