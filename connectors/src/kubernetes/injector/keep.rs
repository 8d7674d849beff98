//! Carries out for the authority what it says, by the cluster's API.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::Secret as ClusterSecret;
use kube::Api;
use kube::api::PostParams;
use wire::crypto::Secret;

use super::authority::{Kept, Seen, Task};

const ROOT: &str = "ca.crt";
const KEY: &str = "ca.key";
const EARLIER: &str = "earlier.crt";

/// Why the cluster could not be looked at, or written to.
#[derive(Debug, thiserror::Error)]
pub(super) enum KeepError {
    #[error("cannot read secret `{name}`, which holds the injector's authority")]
    ReadSecret {
        name: String,
        #[source]
        source: Box<kube::Error>,
    },
    #[error("cannot write secret `{name}`, which holds the injector's authority")]
    WriteSecret {
        name: String,
        #[source]
        source: Box<kube::Error>,
    },
    #[error("cannot read webhook configuration `{name}`")]
    ReadConfiguration {
        name: String,
        #[source]
        source: Box<kube::Error>,
    },
    #[error("cannot tell webhook configuration `{name}` the injector's authority")]
    WriteConfiguration {
        name: String,
        #[source]
        source: Box<kube::Error>,
    },
}

/// Is where things are in the cluster.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) secrets: Api<ClusterSecret>,
    pub(super) secret: String,
    pub(super) configurations: Api<MutatingWebhookConfiguration>,
    pub(super) configuration: String,
}

/// Is the cluster as it was seen, with the versions that writes are guarded by.
#[derive(Debug)]
pub(super) struct Look {
    secret: ClusterSecret,
    configuration: MutatingWebhookConfiguration,
}

impl Place {
    /// Looks once.
    pub(super) async fn look(&self) -> Result<Look, KeepError> {
        let secret = self.secrets.get(&self.secret).await;
        let secret =
            secret.map_err(|source| KeepError::ReadSecret { name: self.secret.clone(), source: Box::new(source) })?;
        let configuration = self.configurations.get(&self.configuration).await;
        let configuration = configuration.map_err(|source| KeepError::ReadConfiguration {
            name: self.configuration.clone(),
            source: Box::new(source),
        })?;
        Ok(Look { secret, configuration })
    }

    /// Keeps or tells what the authority says, if the cluster still is as it was seen; whether it was.
    pub(super) async fn write(&self, look: Look, task: &Task) -> Result<bool, KeepError> {
        let parameters = PostParams::default();
        match task {
            Task::Keep(kept) => {
                let secret = ClusterSecret { data: Some(data(kept)), ..look.secret };
                let written = self.secrets.replace(&self.secret, &parameters, &secret).await.map(drop);
                unless_changed(written).map_err(|source| KeepError::WriteSecret { name: self.secret.clone(), source })
            }
            Task::Tell(bundle) => {
                let mut configuration = look.configuration;
                for webhook in configuration.webhooks.iter_mut().flatten() {
                    webhook.client_config.ca_bundle = Some(ByteString(bundle.clone().into_bytes()));
                }
                let written = self.configurations.replace(&self.configuration, &parameters, &configuration).await;
                unless_changed(written.map(drop))
                    .map_err(|source| KeepError::WriteConfiguration { name: self.configuration.clone(), source })
            }
            Task::Show(_) => Ok(true),
        }
    }
}

/// Takes a conflict for what it is: somebody was faster, and another look tells with what.
fn unless_changed(written: Result<(), kube::Error>) -> Result<bool, Box<kube::Error>> {
    match written {
        Ok(()) => Ok(true),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
        Err(error) => Err(Box::new(error)),
    }
}

impl Look {
    pub(super) fn seen(&self) -> Seen {
        let text = |name: &str| {
            let bytes = self.secret.data.as_ref()?.get(name)?;
            String::from_utf8(bytes.0.clone()).ok().filter(|text| !text.is_empty())
        };
        let kept = text(ROOT).zip(text(KEY)).map(|(root_pem, key_pem)| Kept {
            root_pem,
            key_pem: Secret::new(key_pem),
            earlier_pem: text(EARLIER),
        });
        let bundle = |bytes: Option<&ByteString>| {
            bytes.and_then(|bytes| String::from_utf8(bytes.0.clone()).ok()).unwrap_or_default()
        };
        let webhooks = self.configuration.webhooks.iter().flatten();
        Seen { kept, told: webhooks.map(|webhook| bundle(webhook.client_config.ca_bundle.as_ref())).collect() }
    }
}

fn data(kept: &Kept) -> BTreeMap<String, ByteString> {
    let bytes = |text: &str| ByteString(text.as_bytes().to_vec());
    let mut data =
        BTreeMap::from([(ROOT.to_owned(), bytes(&kept.root_pem)), (KEY.to_owned(), bytes(kept.key_pem.expose()))]);
    data.extend(kept.earlier_pem.as_deref().map(|earlier| (EARLIER.to_owned(), bytes(earlier))));
    data
}
