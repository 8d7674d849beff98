//! One call of the API, with the command line's own way of saying where and as whom.

use std::time::Duration;

use anyhow::Context;
use serde::{Serialize, de::DeserializeOwned};
use wire::{
    client::{Answer, ApiClient, Call, Streamed},
    cluster_key::ClusterKey,
    crypto::{Secret, read_secret_file},
};

use super::{ApiOptions, error::hinted};

/// No token is longer.
const TOKEN_BYTES_MAX: u64 = 1024;

/// Calls the API as the command line was told to.
#[derive(Clone)]
pub(super) struct Api {
    client: ApiClient,
}

impl Api {
    /// Reads the token, if there is one, and prepares calls. Nothing is sent.
    pub(super) fn new(options: &ApiOptions) -> anyhow::Result<Self> {
        let mut api = Self::at(&options.http_addr, token(options)?)?;
        if let Some(path) = &options.cacert {
            api.client = api.client.with_ca_file(path)?;
        }
        Ok(api)
    }

    /// Prepares calls to a server that holds this cluster key, for whoever knows no certificate of the mesh yet: where
    /// the command line names one, that counts. Nothing is sent.
    pub(super) fn of_key_holder(options: &ApiOptions, key: &ClusterKey) -> anyhow::Result<Self> {
        let client = ApiClient::new(&options.http_addr)?;
        let client = match &options.cacert {
            Some(path) => client.with_ca_file(path)?,
            None => client.with_cluster_key(key),
        };
        Ok(Self { client })
    }

    /// Calls with this token from now on.
    #[must_use]
    pub(super) fn with_token(mut self, token: Secret) -> Self {
        self.client = self.client.with_token(token);
        self
    }

    /// Prepares calls to one address with one token.
    pub(super) fn at(address: &str, token: Option<Secret>) -> anyhow::Result<Self> {
        let client = ApiClient::new(address)?;
        Ok(Self { client: token.into_iter().fold(client, ApiClient::with_token) })
    }

    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str, query: &[(&str, &str)]) -> anyhow::Result<T> {
        Ok(asking(self.client.get(path), query).json().await?)
    }

    /// Asks for something that may not be there.
    pub(super) async fn find<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&str, &str)],
    ) -> anyhow::Result<Option<T>> {
        found(asking(self.client.get(path), query)).await
    }

    /// Asks for something of this name below `path` that may not be there.
    pub(super) async fn find_in<T: DeserializeOwned>(
        &self,
        path: &str,
        name: &str,
        query: &[(&str, &str)],
    ) -> anyhow::Result<Option<T>> {
        found(asking(self.client.get(path).segment(name), query)).await
    }

    /// Asks for something, headers and all.
    pub(super) async fn answer(&self, path: &str, query: &[(&str, &str)], timeout: Duration) -> anyhow::Result<Answer> {
        Ok(asking(self.client.get(path), query).timeout(timeout).send().await?)
    }

    /// Removes something of this name below `path`; the answer says something.
    pub(super) async fn delete_in<T: DeserializeOwned>(
        &self,
        path: &str,
        name: &str,
        query: &[(&str, &str)],
    ) -> anyhow::Result<T> {
        Ok(asking(self.client.delete(path).segment(name), query).json().await?)
    }

    /// Sends a write whose answer says something.
    pub(super) async fn put<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&str, &str)],
        body: &impl Serialize,
    ) -> anyhow::Result<T> {
        Ok(asking(self.client.put(path), query).body(body)?.json().await?)
    }

    /// Sends a request that makes something of its own.
    pub(super) async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> anyhow::Result<T> {
        Ok(self.client.post(path).body(body)?.json().await?)
    }

    /// Sends a write whose answer says nothing but that it was done.
    pub(super) async fn write(&self, path: &str, query: &[(&str, &str)], body: &impl Serialize) -> anyhow::Result<()> {
        asking(self.client.put(path), query).body(body)?.send().await?;
        Ok(())
    }

    /// Sends a write of which the path says all.
    pub(super) async fn act<T: DeserializeOwned>(&self, path: &str, query: &[(&str, &str)]) -> anyhow::Result<T> {
        Ok(asking(self.client.put(path), query).json().await?)
    }

    /// Sends a write of which the path says all; its answer says nothing but that it was done.
    pub(super) async fn tell(&self, path: &str, query: &[(&str, &str)]) -> anyhow::Result<()> {
        asking(self.client.put(path), query).send().await?;
        Ok(())
    }

    /// Sends a write to what `id` names below `path`; the path says it all.
    pub(super) async fn write_to(&self, path: &str, id: &str, query: &[(&str, &str)]) -> anyhow::Result<()> {
        asking(self.client.put(path).segment(id), query).send().await?;
        Ok(())
    }

    /// Asks for an answer that has no end.
    pub(super) async fn stream(&self, path: &str, query: &[(&str, &str)]) -> anyhow::Result<Streamed> {
        Ok(asking(self.client.get(path), query).stream().await?)
    }

    /// Sends a write to what `id` names below `path`; the path says it all, and the answer says something.
    pub(super) async fn act_on<T: DeserializeOwned>(
        &self,
        path: &str,
        id: &str,
        query: &[(&str, &str)],
    ) -> anyhow::Result<T> {
        Ok(asking(self.client.put(path).segment(id), query).json().await?)
    }

    /// Asks for an answer of this name below `path` that has no end.
    pub(super) async fn stream_in(&self, path: &str, name: &str, query: &[(&str, &str)]) -> anyhow::Result<Streamed> {
        Ok(asking(self.client.get(path).segment(name), query).stream().await?)
    }

    /// Fetches what is no JSON, of at most `bytes_max` bytes.
    pub(super) async fn download(
        &self,
        path: &str,
        query: &[(&str, &str)],
        bytes_max: usize,
        timeout: Duration,
    ) -> anyhow::Result<Vec<u8>> {
        let call = asking(self.client.get(path), query).timeout(timeout).answer_bytes_max(bytes_max);
        Ok(call.send().await?.body.to_vec())
    }

    /// Sends what is no JSON; the answer says something.
    pub(super) async fn upload<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&str, &str)],
        bytes: Vec<u8>,
        timeout: Duration,
    ) -> anyhow::Result<T> {
        Ok(asking(self.client.put(path), query).timeout(timeout).bytes("application/x-gzip", bytes).json().await?)
    }

    pub(super) async fn delete(&self, path: &str, query: &[(&str, &str)]) -> anyhow::Result<()> {
        asking(self.client.delete(path), query).send().await?;
        Ok(())
    }
}

/// Sends a call for what may not be there.
async fn found<T: DeserializeOwned>(call: Call<'_>) -> anyhow::Result<Option<T>> {
    match call.json().await {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.status() == Some(http::StatusCode::NOT_FOUND) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn asking<'a>(call: Call<'a>, query: &[(&str, &str)]) -> Call<'a> {
    query.iter().fold(call, |call, (name, value)| call.query(name, value))
}

/// Finds the token: in the environment, or in the file that was named. Never among the arguments, which everybody sees.
pub(super) fn token(options: &ApiOptions) -> anyhow::Result<Option<Secret>> {
    if let Some(path) = &options.token_file {
        let token = read_secret_file(path, TOKEN_BYTES_MAX).context("reading the token to call the API with")?;
        return Ok(Some(Secret::new(token.expose().trim())));
    }
    match std::env::var("WEFT_HTTP_TOKEN") {
        Ok(token) if !token.trim().is_empty() => Ok(Some(Secret::new(token.trim()))),
        Ok(_) | Err(std::env::VarError::NotPresent) => Ok(None),
        Err(std::env::VarError::NotUnicode(_)) => Err(hinted(
            "WEFT_HTTP_TOKEN is not text",
            "set it to a token's secret, as `weft acl token create` printed it",
        )),
    }
}
