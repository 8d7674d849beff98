//! AWS where there is none: moto, and Python beside it that calls it as everybody's does, by boto3.

use std::{
    ffi::OsString,
    io::{BufRead, BufReader, Write},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    time::Duration,
};

use serde_json::{Value, json};

use super::{PATIENCE, Process, eventually, output_within, python};

/// Credentials that moto takes, as it takes any.
pub(crate) const CREDENTIALS: [(&str, &str); 4] = [
    ("AWS_ACCESS_KEY_ID", "test"),
    ("AWS_SECRET_ACCESS_KEY", "test"),
    ("AWS_REGION", "eu-west-1"),
    ("AWS_EC2_METADATA_DISABLED", "true"),
];

/// How long moto may take to be there: it is a large program.
const STARTED: Duration = Duration::from_secs(120);

/// Makes roles, assumes each in a session, as ECS does for a task, and prints the credentials by session.
const ROLES: &str = "
import json
iam, sts = made('iam'), made('sts')
trust = {'Version': '2012-10-17', 'Statement': [
    {'Effect': 'Allow', 'Principal': {'Service': 'ecs-tasks.amazonaws.com'}, 'Action': 'sts:AssumeRole'}]}
found = {}
for role, session in PAIRS:
    try:
        iam.create_role(RoleName=role, AssumeRolePolicyDocument=json.dumps(trust))
    except iam.exceptions.EntityAlreadyExistsException:
        pass
    arn = f'arn:aws:iam::123456789012:role/{role}'
    given = sts.assume_role(RoleArn=arn, RoleSessionName=session)['Credentials']
    found[session] = {'RoleArn': arn, 'AccessKeyId': given['AccessKeyId'], 'SecretAccessKey': given['SecretAccessKey'],
        'Token': given['SessionToken'], 'Expiration': '2099-01-01T00:00:00Z'}
print(json.dumps(found))
";

/// Runs what it reads, a text of JSON a line, and answers each with what that printed, or why it failed.
const CONVERSATION: &str = "
import boto3, botocore.config, contextlib, functools, io, json, sys, traceback
endpoint, authority = sys.argv[1:]
# Its data plane has a host name of its own, too.
config = botocore.config.Config(inject_host_prefix=False)
made = functools.cache(lambda name: boto3.client(name, endpoint_url=endpoint, config=config, verify=authority or None))
for line in sys.stdin:
    printed, failed = io.StringIO(), None
    try:
        with contextlib.redirect_stdout(printed):
            exec(json.loads(line), {'boto3': boto3, 'endpoint': endpoint, 'made': made})
    except Exception:
        failed = traceback.format_exc()
    print(json.dumps({'printed': printed.getvalue(), 'failed': failed}), flush=True)
";

/// Is a Python that has moto and boto3.
pub(crate) struct Moto {
    python: PathBuf,
}

impl Moto {
    /// Finds it; where there is none the test is skipped.
    pub(crate) fn find(test: &str) -> Option<Self> {
        Some(Self { python: python("moto.server, boto3", test)? })
    }

    /// Starts it behind `on`, which says where a program runs, and waits until it listens.
    #[track_caller]
    pub(crate) fn serve(
        &self,
        on: impl Fn() -> Command,
        address: SocketAddr,
        more: &[OsString],
        logs: &Path,
    ) -> Process {
        let (host, port) = (address.ip().to_string(), address.port().to_string());
        let mut command = on();
        command.arg(&self.python).args(["-m", "moto.server", "-H", &host, "-p", &port]).args(more);
        let mut process = Process::start("moto", command, logs);
        let listens = format!("exec 3<>/dev/tcp/{host}/{port}");
        eventually("moto to serve", STARTED, || {
            process.assert_running();
            let asked = output_within(on().args(["bash", "-c", &listens]), PATIENCE);
            asked.status.success().then_some(())
        });
        process
    }

    /// Begins to talk with a Python that runs `on` something, and has `boto3` and clients of this endpoint: `made('sts')` is one
    /// of them. `authority` is whom to trust to know the endpoint, where that has a certificate.
    pub(crate) fn converse(&self, mut on: Command, endpoint: &str, authority: Option<&Path>) -> Boto3 {
        on.arg(&self.python).args(["-c", CONVERSATION, endpoint]).arg(authority.unwrap_or(Path::new("")));
        on.envs(CREDENTIALS).env("AWS_DEFAULT_REGION", "eu-west-1");
        let mut child = on.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (asked, lines) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()).lines());
        let (sender, told) = channel();
        std::thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Boto3 { child, asked, told }
    }

    /// Returns the Python itself.
    pub(crate) fn python(&self) -> &Path {
        &self.python
    }
}

/// Is a Python that is told what to do, one thing after the other: it takes longer to start than to answer.
pub(crate) struct Boto3 {
    child: Child,
    asked: ChildStdin,
    told: Receiver<String>,
}

impl Boto3 {
    /// Runs lines of Python; returns what they printed.
    #[track_caller]
    pub(crate) fn run(&mut self, lines: &str) -> String {
        writeln!(self.asked, "{}", json!(lines)).unwrap();
        let told = self.told.recv_timeout(PATIENCE);
        let told =
            told.unwrap_or_else(|error| panic!("no answer, for it has ended or takes too long ({error}): {lines}"));
        let told: Value = serde_json::from_str(&told).unwrap_or_else(|error| panic!("{error}: {told}"));
        assert!(told["failed"].is_null(), "{lines}: {}", told["failed"].as_str().unwrap_or_default());
        told["printed"].as_str().unwrap().trim().to_owned()
    }

    /// Has roles made, and each assumed in a session; returns the credentials by session.
    #[track_caller]
    pub(crate) fn roles(&mut self, wanted: &[(&str, &str)]) -> Value {
        serde_json::from_str(&self.run(&format!("PAIRS = {}{ROLES}", json!(wanted)))).unwrap()
    }
}

impl Drop for Boto3 {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _taken_leave = self.child.wait();
    }
}
