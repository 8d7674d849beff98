//! Cloud Map and ECS where there are none: moto behind a small proxy that makes faults.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::Command,
    sync::{Arc, Mutex},
    time::Duration,
};

use serde_json::{Value, json};

use super::{
    Process, exchange, free_port,
    moto::{Boto3, Moto},
};

/// How long an answer takes that is delayed.
const DELAY: Duration = Duration::from_secs(1);
const AUTHORIZATION: &str = "AWS4-HMAC-SHA256 Credential=test/20260101/eu-west-1/servicediscovery/aws4_request, SignedHeaders=host, Signature=00";

/// Says what goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// AWS asks for fewer calls.
    Throttle,
    /// AWS fails by itself.
    Fail,
    /// The credentials have ended.
    Expired,
    /// The answer ends in the middle.
    Truncate,
    /// A first page is good and says that there is more, and the next one fails.
    LosePage,
    /// The answer takes its time.
    Delay,
    /// It is done, and nobody hears of it.
    LoseAnswer,
}

#[derive(Default)]
struct Weather {
    /// What goes wrong, by what the name of a call begins with.
    faults: BTreeMap<String, Fault>,
    calls: BTreeMap<String, usize>,
}

/// Is moto, and the proxy before it.
pub(crate) struct Aws {
    moto: SocketAddr,
    proxy: SocketAddr,
    weather: Arc<Mutex<Weather>>,
    boto3: Mutex<Boto3>,
    _process: Process,
}

impl Aws {
    /// Starts moto and the proxy; nothing where moto is not installed.
    pub(crate) fn start(test: &str, logs: &Path) -> Option<Self> {
        let program = Moto::find(test)?;
        let moto = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let process = program.serve(|| Command::new("env"), moto, &[], logs);
        let endpoint = format!("http://localhost:{}", moto.port());
        let boto3 = Mutex::new(program.converse(Command::new("env"), &endpoint, None));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let (proxy, weather) = (listener.local_addr().unwrap(), Arc::new(Mutex::new(Weather::default())));
        let shared = Arc::clone(&weather);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let weather = Arc::clone(&shared);
                // Whoever hangs up in the middle is none of the proxy's business.
                std::thread::spawn(move || carry(stream, moto, &weather));
            }
        });
        Some(Self { moto, proxy, weather, boto3, _process: process })
    }

    /// Returns where the proxy is; a name and no address, for the SDK puts a word of its own before it.
    pub(crate) fn endpoint(&self) -> String {
        format!("http://aws.localhost:{}", self.proxy.port())
    }

    /// Lets every call go wrong whose name begins like this.
    pub(crate) fn fault(&self, call: &str, fault: Fault) {
        self.weather.lock().unwrap().faults.insert(call.to_owned(), fault);
    }

    /// Lets everything succeed again.
    pub(crate) fn heal(&self) {
        self.weather.lock().unwrap().faults.clear();
    }

    /// Returns how often a call was made.
    pub(crate) fn calls(&self, call: &str) -> usize {
        self.weather.lock().unwrap().calls.get(call).copied().unwrap_or(0)
    }

    /// Has moto read what it knows of ECS, which takes it seconds, while something else goes on.
    pub(crate) fn read_about_tasks(&self) {
        let moto = self.moto;
        std::thread::spawn(move || {
            let headers = [
                ("x-amz-target", "AmazonEC2ContainerServiceV20141113.ListClusters"),
                ("content-type", "application/x-amz-json-1.1"),
                ("authorization", &*AUTHORIZATION.replace("servicediscovery", "ecs")),
            ];
            // Whoever asks next waits for it, whatever became of this question.
            drop(exchange(moto, "POST", "/", &headers, "{}"));
        });
    }

    /// Calls Cloud Map past the proxy.
    #[track_caller]
    pub(crate) fn cloud_map(&self, call: &str, body: &Value) -> Value {
        let target = format!("Route53AutoNaming_v20170314.{call}");
        let headers = [
            ("x-amz-target", target.as_str()),
            ("content-type", "application/x-amz-json-1.1"),
            ("authorization", AUTHORIZATION),
        ];
        let answer = exchange(self.moto, "POST", "/", &headers, &body.to_string()).unwrap();
        assert_eq!(answer.status, 200, "{call}: {answer:?}");
        if answer.body.is_empty() { Value::Null } else { answer.json() }
    }

    /// Keeps tasks of ECS as they are until somebody stops them; moto by itself has them end after a few questions.
    #[track_caller]
    pub(crate) fn keep_tasks(&self) {
        let body = json!({"model_name": "ecs::task", "transition": {"progression": "manual", "times": 1_000_000}});
        let answer = exchange(self.moto, "POST", "/moto-api/state-manager/set-transition", &[], &body.to_string());
        assert_eq!(answer.unwrap().status, 201);
    }

    /// Runs lines of Python that print, with clients of AWS: `made('ecs')` is one of them.
    #[track_caller]
    pub(crate) fn boto3(&self, lines: &str) -> String {
        self.boto3.lock().unwrap().run(lines)
    }
}

fn carry(mut stream: TcpStream, moto: SocketAddr, weather: &Mutex<Weather>) -> Option<()> {
    stream.set_read_timeout(Some(Duration::from_secs(30))).ok()?;
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let (mut line, mut headers) = (String::new(), Vec::new());
    reader.read_line(&mut line).ok()?;
    let method = line.split(' ').next()?.to_owned();
    let path = line.split(' ').nth(1)?.to_owned();
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok()?;
        let Some((name, value)) = header.trim_end().split_once(": ") else { break };
        headers.push((name.to_ascii_lowercase(), value.to_owned()));
    }
    let of = |wanted: &str| headers.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str());
    let mut body = vec![0; of("content-length").and_then(|length| length.parse().ok()).unwrap_or(0)];
    reader.read_exact(&mut body).ok()?;
    let call = of("x-amz-target").and_then(|target| target.rsplit('.').next()).unwrap_or_default().to_owned();
    let fault = {
        let mut weather = weather.lock().unwrap();
        *weather.calls.entry(call.clone()).or_default() += 1;
        weather.faults.iter().find(|(begins, _)| call.starts_with(begins.as_str())).map(|(_, fault)| *fault)
    };
    let refusal = match fault {
        Some(Fault::Throttle) => Some((400, "ThrottlingException")),
        Some(Fault::Expired) => Some((400, "ExpiredTokenException")),
        Some(Fault::Fail) => Some((500, "InternalFailure")),
        Some(Fault::LosePage) if body.windows(9).any(|part| part == b"NextToken") => Some((500, "InternalFailure")),
        _ => None,
    };
    if let Some((status, code)) = refusal {
        let body = format!(r#"{{"__type":"{code}","message":"as the weather is"}}"#);
        return answer(&mut stream, status, &body, body.len());
    }
    let kept = ["host", "content-length", "connection", "accept-encoding", "transfer-encoding"];
    let passed: Vec<(&str, &str)> = headers
        .iter()
        .filter(|(name, _)| !kept.contains(&name.as_str()))
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    if fault == Some(Fault::Delay) {
        std::thread::sleep(DELAY);
    }
    let answered = exchange(moto, &method, &path, &passed, &String::from_utf8(body).ok()?).ok()?;
    let (text, length) = (answered.body, |text: &str| text.len());
    match fault {
        Some(Fault::LoseAnswer) => None,
        Some(Fault::LosePage) => {
            let mut page: Value = serde_json::from_str(&text).ok()?;
            page["NextToken"] = "more".into();
            let page = page.to_string();
            answer(&mut stream, answered.status, &page, page.len())
        }
        Some(Fault::Truncate) => answer(&mut stream, answered.status, &text[..text.len() / 2], length(&text)),
        _ => answer(&mut stream, answered.status, &text, length(&text)),
    }
}

fn answer(stream: &mut TcpStream, status: u16, body: &str, length: usize) -> Option<()> {
    let head = format!(
        "HTTP/1.1 {status} X\r\ncontent-type: application/x-amz-json-1.1\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).ok()?;
    stream.write_all(body.as_bytes()).ok()
}
