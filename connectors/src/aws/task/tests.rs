use std::net::Ipv4Addr;
use std::sync::Arc;

use bytes::Bytes;
use catalog::CheckStatus;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

use super::*;

/// A metadata endpoint with answers of the shape that Fargate gives.
struct Metadata {
    url: String,
    task: Arc<Mutex<Value>>,
    _server: AbortOnDropHandle<()>,
}

fn container(name: &str, known: &str, health: Option<&str>) -> Value {
    let mut container = json!({
        "DockerId": format!("e9028f8d5d8e4f258373e7b93ce9a3c3-{name}"), "Name": name, "DockerName": name,
        "Image": "111122223333.dkr.ecr.eu-west-1.amazonaws.com/app:1", "ImageID": "sha256:25f3695bedfb",
        "Labels": {"com.amazonaws.ecs.task-definition-family": "web"},
        "DesiredStatus": "RUNNING", "KnownStatus": known, "Limits": {"CPU": 10, "Memory": 128},
        "CreatedAt": "2026-11-21T08:00:00.000000000Z", "Type": "NORMAL",
        "Networks": [{
            "NetworkMode": "awsvpc", "IPv4Addresses": ["10.0.2.106"], "AttachmentIndex": 0,
            "MACAddress": "0e:9e:32:c7:48:85", "IPv4SubnetCIDRBlock": "10.0.2.0/24",
            "PrivateDNSName": "ip-10-0-2-106.eu-west-1.compute.internal", "SubnetGatewayIpv4Address": "10.0.2.1/24",
        }],
        "ContainerARN": "arn:aws:ecs:eu-west-1:111122223333:container/0206b271", "ClockDrift": {"ClockErrorBound": 0.5},
    });
    if let Some(status) = health {
        container["Health"] = json!({"status": status, "statusSince": "2026-11-21T08:00:30Z", "output": "curl: (7)\n"});
    }
    container
}

fn task(containers: &[Value]) -> Value {
    json!({
        "Cluster": "arn:aws:ecs:eu-west-1:111122223333:cluster/shop",
        "TaskARN": "arn:aws:ecs:eu-west-1:111122223333:task/shop/158d1c8083dd49d6b527399fd6414f5c",
        "Family": "web", "ServiceName": "web", "Revision": "26", "DesiredStatus": "RUNNING", "KnownStatus": "RUNNING",
        "PullStartedAt": "2026-11-21T07:59:00Z", "AvailabilityZone": "eu-west-1b", "VPCID": "vpc-1234",
        "EphemeralStorageMetrics": {"Utilized": 261, "Reserved": 20496},
        "Containers": containers, "LaunchType": "FARGATE", "FaultInjectionEnabled": false,
    })
}

impl Metadata {
    async fn start(containers: &[Value]) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let url = format!("http://{}/v4/0206b271", listener.local_addr().unwrap());
        let task = Arc::new(Mutex::new(task(containers)));
        let told = Arc::clone(&task);
        let server = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let told = Arc::clone(&told);
                let serve = service_fn(move |request: Request<Incoming>| {
                    let (status, body) = match request.uri().path() {
                        "/v4/0206b271/task" => (StatusCode::OK, told.lock().unwrap().to_string()),
                        "/v4/0206b271" => (StatusCode::OK, container("weft-agent", "RUNNING", None).to_string()),
                        _ => (StatusCode::NOT_FOUND, String::new()),
                    };
                    async move {
                        let response = Response::builder().status(status).body(Full::new(Bytes::from(body)));
                        Ok::<_, std::convert::Infallible>(response.unwrap())
                    }
                });
                tokio::spawn(async move { http1::Builder::new().serve_connection(TokioIo::new(stream), serve).await });
            }
        });
        Self { url, task, _server: AbortOnDropHandle::new(server) }
    }

    fn shows(&self, containers: &[Value]) {
        *self.task.lock().unwrap() = task(containers);
    }
}

fn neighbours(observed: &Observed) -> Vec<(&str, CheckStatus)> {
    observed.neighbours.iter().map(|neighbour| (neighbour.name.as_str(), neighbour.status)).collect()
}

#[tokio::test]
async fn a_task_is_a_node_of_its_own() {
    let metadata = Metadata::start(&[]).await;
    let facts = EcsTask::find(&metadata.url, &[]).await.unwrap().facts().clone();
    assert_eq!(facts.node.as_str(), "158d1c8083dd49d6b527399fd6414f5c");
    assert_eq!((facts.zone.as_deref(), facts.address), (Some("eu-west-1b"), Some("10.0.2.106".parse().unwrap())));
    let meta: Vec<(&str, &str)> = facts.meta.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(
        meta,
        [
            ("ecs-cluster", "arn:aws:ecs:eu-west-1:111122223333:cluster/shop"),
            ("ecs-family", "web"),
            ("ecs-launch-type", "FARGATE"),
            ("ecs-revision", "26"),
            ("ecs-service", "web"),
            ("ecs-task-arn", "arn:aws:ecs:eu-west-1:111122223333:task/shop/158d1c8083dd49d6b527399fd6414f5c"),
        ]
    );
    // An address that is the machine's or a bridge's is not the task's.
    let mut bridged = container("weft-agent", "RUNNING", None);
    bridged["Networks"][0]["NetworkMode"] = json!("bridge");
    assert_eq!(Container::read(bridged.to_string().as_bytes()).unwrap().address(), None);
}

#[tokio::test]
async fn a_container_is_as_its_health_check_says_and_critical_when_it_is_missing() {
    let agent = || container("weft-agent", "RUNNING", Some("UNHEALTHY"));
    let quiet = || container("log-router", "RUNNING", None);
    let metadata = Metadata::start(&[agent(), quiet(), container("app", "RUNNING", Some("UNKNOWN"))]).await;
    let watched = EcsTask::find(&metadata.url, &[]).await.unwrap();
    for (app, want) in [
        (container("app", "RUNNING", Some("UNKNOWN")), CheckStatus::Critical),
        (container("app", "RUNNING", Some("HEALTHY")), CheckStatus::Passing),
        (container("app", "RUNNING", Some("UNHEALTHY")), CheckStatus::Critical),
        (container("app", "STOPPED", Some("HEALTHY")), CheckStatus::Critical),
    ] {
        metadata.shows(&[agent(), quiet(), app]);
        assert_eq!(neighbours(&watched.observe().await.unwrap()), [("app", want)]);
    }
    metadata.shows(&[agent(), quiet()]);
    let observed = watched.observe().await.unwrap();
    assert_eq!(neighbours(&observed), [("app", CheckStatus::Critical)], "it had a health check, and is gone");
    assert!(observed.neighbours[0].output.contains("no such container"), "{observed:?}");
}

#[tokio::test]
async fn a_container_that_must_run_is_critical_until_it_does() {
    let metadata = Metadata::start(&[]).await;
    let watched = EcsTask::find(&metadata.url, &["app".to_owned()]).await.unwrap();
    assert_eq!(neighbours(&watched.observe().await.unwrap()), [("app", CheckStatus::Critical)]);
    metadata.shows(&[container("app", "PULLED", None)]);
    assert_eq!(neighbours(&watched.observe().await.unwrap()), [("app", CheckStatus::Critical)]);
    metadata.shows(&[container("app", "RUNNING", None)]);
    assert_eq!(neighbours(&watched.observe().await.unwrap()), [("app", CheckStatus::Passing)]);
}

#[tokio::test]
async fn a_task_that_is_to_stop_says_so() {
    let metadata = Metadata::start(&[container("app", "RUNNING", Some("HEALTHY"))]).await;
    let watched = EcsTask::find(&metadata.url, &[]).await.unwrap();
    assert!(!watched.observe().await.unwrap().is_ending);
    metadata.task.lock().unwrap()["DesiredStatus"] = json!("STOPPED");
    assert!(watched.observe().await.unwrap().is_ending);
}

#[tokio::test]
async fn an_endpoint_that_is_not_one_is_named() {
    for url in ["http://127.0.0.1:9", "nonsense://", ""] {
        assert!(EcsTask::ask(url, &[]).await.is_err(), "{url}");
    }
    let metadata = Metadata::start(&[]).await;
    let error = EcsTask::ask(&format!("{}x", metadata.url), &[]).await.unwrap_err();
    assert!(error.to_string().contains("404") && error.to_string().contains("/v4/0206b271x"), "{error}");
    *metadata.task.lock().unwrap() = json!({"Cluster": "shop"});
    let error = EcsTask::ask(&metadata.url, &[]).await.unwrap_err();
    assert!(error.to_string().contains("TaskARN"), "{error}");
}
