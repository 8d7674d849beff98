//! Request bodies of the agents' port, as what they are to say.

use http::HeaderMap;
use hyper::body::Body;
use serde::de::DeserializeOwned;
use wire::body::{self, Bounds};

use super::refusal::PortError;

/// Reads a whole body as `T`.
pub(crate) async fn read_json<T, B>(what: &'static str, body: B) -> Result<T, PortError>
where
    T: DeserializeOwned,
    B: Body,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    // What is announced is known of the body itself here, by either version of HTTP.
    let bytes = body::read(&HeaderMap::new(), body, Bounds::default()).await?;
    serde_json::from_slice(&bytes).map_err(|error| PortError::Malformed { what, reason: error.to_string() })
}
