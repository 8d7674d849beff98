//! A gRPC server with a unary call, a stream from it and a stream both ways, and a client that does all three.

use std::{net::SocketAddr, time::Duration};

use futures_util::{StreamExt as _, stream};
use tonic::{Code, Status, transport::Channel};
use tonic_health::{
    ServingStatus,
    pb::{HealthCheckRequest, health_check_response, health_client::HealthClient},
    server::HealthReporter,
};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

/// How long one call may take, and all of them.
const PATIENCE: Duration = Duration::from_secs(20);

/// Is a server; dropping it does not stop it, the end of its runtime does.
pub(crate) struct GrpcServer {
    reporter: HealthReporter,
}

impl GrpcServer {
    /// Serves on a port of loopback, in the runtime that this is called in.
    pub(crate) async fn start(address: SocketAddr) -> Self {
        let (reporter, health) = tonic_health::server::health_reporter();
        let served = Self { reporter };
        served.set("db", true).await;
        let reflection = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .build_v1()
            .unwrap();
        let server = tonic::transport::Server::builder().add_service(health).add_service(reflection);
        tokio::spawn(async move { server.serve(address).await.unwrap() });
        served
    }

    async fn set(&self, service: &str, is_serving: bool) {
        let status = if is_serving { ServingStatus::Serving } else { ServingStatus::NotServing };
        self.reporter.set_service_status(service, status).await;
    }

    /// Makes every kind of call through a port of loopback.
    ///
    /// # Errors
    /// What the first call that failed was answered with.
    pub(crate) async fn call_all(&self, address: SocketAddr) -> Result<(), Status> {
        let called = tokio::time::timeout(PATIENCE, self.call_each(address)).await;
        called.unwrap_or_else(|_| Err(Status::deadline_exceeded(format!("{address} has not answered in {PATIENCE:?}"))))
    }

    async fn call_each(&self, address: SocketAddr) -> Result<(), Status> {
        let endpoint = Channel::from_shared(format!("http://{address}")).unwrap().timeout(PATIENCE);
        let channel = endpoint.connect().await.map_err(|error| Status::unavailable(error.to_string()))?;
        self.call_once(channel.clone()).await?;
        self.watch(channel.clone()).await?;
        converse(channel).await
    }

    /// Makes one call, and one whose status is an error, which gRPC writes into trailers alone.
    async fn call_once(&self, channel: Channel) -> Result<(), Status> {
        let mut client = HealthClient::new(channel);
        let request = |service: &str| HealthCheckRequest { service: service.to_owned() };
        let answer = client.check(request("db")).await?.into_inner();
        assert_eq!(answer.status(), health_check_response::ServingStatus::Serving);
        let missing = client.check(request("nobody")).await.unwrap_err();
        assert_eq!(missing.code(), Code::NotFound);
        Ok(())
    }

    /// Follows a stream from the server: each change arrives when it happens, not when the stream ends.
    async fn watch(&self, channel: Channel) -> Result<(), Status> {
        use health_check_response::ServingStatus::{NotServing, Serving};
        self.set("watched", true).await;
        let request = HealthCheckRequest { service: "watched".to_owned() };
        let mut changes = HealthClient::new(channel).watch(request).await?.into_inner();
        // The first is what stands already: said again, it could come twice.
        for (change, want) in [(None, Serving), (Some(false), NotServing), (Some(true), Serving)] {
            if let Some(is_serving) = change {
                self.set("watched", is_serving).await;
            }
            assert_eq!(changes.message().await?.expect("the stream goes on").status(), want);
        }
        Ok(())
    }
}

/// Talks both ways at once: each question goes out only when the one before was answered.
async fn converse(channel: Channel) -> Result<(), Status> {
    let (sender, questions) = tokio::sync::mpsc::channel::<ServerReflectionRequest>(1);
    let questions = stream::unfold(questions, |mut questions| async move {
        let question = questions.recv().await?;
        Some((question, questions))
    });
    let ask = |name: &str| ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::FileContainingSymbol(name.to_owned())),
    };
    let list = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let _sent = sender.send(list).await;
    let mut answers = ServerReflectionClient::new(channel).server_reflection_info(questions).await?.into_inner();
    let listed = answers.message().await?.and_then(|answer| answer.message_response);
    let Some(MessageResponse::ListServicesResponse(services)) = listed else { panic!("no list: {listed:?}") };
    for service in services.service.iter().filter(|service| service.name.starts_with("grpc.health")) {
        let _sent = sender.send(ask(&service.name)).await;
        let described = answers.message().await?.and_then(|answer| answer.message_response);
        assert!(matches!(described, Some(MessageResponse::FileDescriptorResponse(_))), "{described:?}");
    }
    drop(sender);
    assert!(answers.next().await.is_none(), "the stream ends when both sides have ended it");
    Ok(())
}
