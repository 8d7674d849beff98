//! Whom to ask what rules decide: the servers, or files.

use std::path::PathBuf;

use anyhow::Context;
use catalog::{Catalog, Namespace, ServiceKey, ServicePattern};
use wire::{
    api_types::Explanation, asked_request::AskedRequest, consul::ConfigEntry, crypto, decode::from_value,
    written_mesh::written_mesh,
};

use crate::cli::{ApiOptions, api::Api, config_file::ConfigFile, error::hinted};

/// Answers what is decided and why.
pub(super) enum Judge {
    /// The servers, by what is written there.
    Servers(Api),
    /// Nobody else, by what is written in files.
    Files(Box<Catalog>),
}

impl Judge {
    /// Reads the files, or gets ready to ask the servers where there are none.
    pub(super) fn new(files: &[PathBuf], options: &ApiOptions) -> anyhow::Result<Self> {
        if files.is_empty() {
            return Ok(Self::Servers(Api::new(options)?));
        }
        let entry = |path: &PathBuf| {
            let name = path.display().to_string();
            let value = ConfigFile::read(path)?.into_value();
            let entry: ConfigEntry = from_value(value, "").with_context(|| format!("reading `{name}`"))?;
            Ok((name, entry))
        };
        let documents: Vec<(String, ConfigEntry)> = files.iter().map(entry).collect::<anyhow::Result<_>>()?;
        Ok(Self::Files(Box::new(written_mesh(documents, &options.namespace, crypto::now())?)))
    }

    pub(super) async fn explain(
        &self,
        (source, destination): &(ServiceKey, ServiceKey),
        request: Option<&AskedRequest>,
    ) -> anyhow::Result<Explanation> {
        match self {
            Self::Servers(api) => {
                let (source, destination) = (source.to_string(), destination.to_string());
                let described = request.map(AskedRequest::to_parameters).unwrap_or_default();
                let mut query = vec![("source", source.as_str()), ("destination", destination.as_str())];
                query.extend(described.iter().map(|(name, value)| (*name, value.as_str())));
                api.get("/v1/connect/intentions/explain", &query).await
            }
            Self::Files(catalog) => Ok(Explanation::of(catalog, source, destination, request, crypto::now())?),
        }
    }
}

/// Reads the name of one service; a name alone is of the current namespace.
pub(super) fn service(text: &str, namespace: &Namespace) -> anyhow::Result<ServiceKey> {
    match ServicePattern::parse(text, namespace)? {
        ServicePattern::Exact(key) => Ok(key),
        _ => Err(hinted(format!("`{text}` is not one service"), "name the service that calls or is called")),
    }
}
