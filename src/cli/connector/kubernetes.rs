//! `weft connector kubernetes`: takes a cluster's pods and resources into the mesh.

use std::{collections::BTreeSet, process::ExitCode};

use anyhow::Context;
use clap::Args;
use connectors::kubernetes::{self, ClusterName, Settings, SyncRules};

use super::super::ApiOptions;
use super::{RunOptions, stop};

/// Take the pods and resources of a Kubernetes cluster into the mesh.
///
/// Pods that back a service become nodes with instances of it; what the cluster knows of a pod that has an agent becomes a
/// check on the agent's node. Resources of the kinds ServiceIntentions and ServiceDefaults (weft.dev/v1alpha1) become
/// intentions and config entries, and are told what became of them. The cluster is the one that this runs in, or that
/// KUBECONFIG names.
#[derive(Debug, Args)]
pub(in crate::cli) struct Kubernetes {
    #[command(flatten)]
    run: RunOptions,
    /// The cluster's name, where pods of several are in the mesh: it ends the names of their nodes, as the injector's does
    #[arg(long, value_name = "NAME")]
    cluster_name: Option<ClusterName>,
    /// A namespace whose services are taken, and no other one; may be given several times
    #[arg(long = "only-namespace", value_name = "NAME")]
    only: Vec<String>,
    /// A namespace whose services are not taken; may be given several times [default: kube-system, kube-public,
    /// kube-node-lease]
    #[arg(long = "except-namespace", value_name = "NAME")]
    except: Vec<String>,
    /// Take only the services that are annotated `weft.dev/service-sync: "true"`
    #[arg(long)]
    only_marked: bool,
    /// Take no custom resources
    #[arg(long)]
    without_resources: bool,
    /// The namespace of the Lease that says which copy works [default: the one that this runs in]
    #[arg(long, value_name = "NAME")]
    lease_namespace: Option<String>,
    /// The name of that Lease
    #[arg(long, default_value = "weft-connector", value_name = "NAME")]
    lease_name: String,
}

pub(super) async fn run(arguments: Kubernetes, options: &ApiOptions) -> anyhow::Result<ExitCode> {
    arguments.run.prepare()?;
    let config = arguments.run.config("kubernetes", options)?;
    let (client, namespace) = kubernetes::client().await.context("reaching the Kubernetes cluster")?;
    let except: BTreeSet<String> = arguments.except.into_iter().collect();
    let settings = Settings {
        client,
        rules: SyncRules {
            connector: config.settings.name.clone(),
            cluster: arguments.cluster_name,
            namespaces: arguments.only.into_iter().collect(),
            except: if except.is_empty() { kubernetes::own_namespaces() } else { except },
            by_default: !arguments.only_marked,
        },
        lease_namespace: arguments.lease_namespace.unwrap_or(namespace),
        lease_name: arguments.lease_name,
        with_resources: !arguments.without_resources,
        caution: config.settings.caution,
    };
    kubernetes::run(config, settings, stop()).await.context("cannot run the connector")?;
    Ok(ExitCode::SUCCESS)
}
