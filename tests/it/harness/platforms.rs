//! What three platforms give their workloads, on machines of their own: a task of ECS its metadata and its role's credentials, a pod
//! what its manifest says and a token, a virtual machine nothing. Beside them stand the servers of one mesh, and on a machine
//! of its own the clouds that vouch for task and pod.

use std::{cell::RefCell, ffi::OsString, net::SocketAddr, process::Command, time::Duration};

use serde_json::{Value, json};

use super::{
    ACCOUNT, Boto3, Kubelet, Machines, Moto, PATIENCE, Process, Task, kubernetes::ApiServer, objects, output_within,
    python, tool,
};

/// Whom the tokens of pods are for.
pub(crate) const AUDIENCE: &str = "weft/here";

/// Where the clouds' own endpoints are.
pub(crate) const CLOUD: &str = "10.0.0.5";

/// An agent is let in within this time, and servers find one another.
pub(crate) const ADMITTED: Duration = Duration::from_secs(6);

/// Where the clouds vouch for tasks.
const STS: &str = "https://sts.example:5000";

/// Machines with servers of one mesh, and the clouds.
pub(crate) struct Platforms {
    pub(crate) machines: Machines,
    pub(crate) cluster: ApiServer,
    servers: &'static [(&'static str, &'static str)],
    /// What else the servers are told.
    told: &'static str,
    moto: Moto,
    /// Whoever makes roles of tasks.
    cloud: RefCell<Boto3>,
    _clouds: Process,
    /// The fingerprint of the root by which servers are recognised.
    pub(crate) root: String,
}

/// Runs a program that must succeed; returns what it printed.
#[track_caller]
fn printed(command: &mut Command) -> String {
    let output = output_within(command, PATIENCE);
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

impl Platforms {
    /// Boots machines for servers and workloads by name and address, and on them the clouds and the servers, which are `told`
    /// more. Without the programs that this takes there are none, and the test is skipped.
    pub(crate) fn begin(
        servers: &'static [(&'static str, &'static str)],
        told: &'static str,
        workloads: &[(&str, &str)],
        test: &str,
    ) -> Option<Self> {
        for program in ["ip", "unshare", "nsenter", "python3", "curl", "setpriv"] {
            tool(program, test)?;
        }
        python("yaml", test)?;
        let moto = Moto::find(test)?;
        let named: Vec<(&str, &str)> = servers.iter().chain(&[("cloud", CLOUD)]).chain(workloads).copied().collect();
        let machines = Machines::boot(&named);
        let cluster = ApiServer::start_by(SocketAddr::new(CLOUD.parse().unwrap(), 6443), machines.enter("cloud"));
        let made = rcgen::generate_simple_self_signed(vec!["sts.example".to_owned(), CLOUD.to_owned()]).unwrap();
        let [certificate, key] = ["cloud.pem", "cloud-key.pem"].map(|name| machines.directory().join(name));
        std::fs::write(&certificate, made.cert.pem()).unwrap();
        std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        let options = ["-s", "-c"].map(OsString::from).into_iter().chain([
            certificate.clone().into_os_string(),
            "-k".into(),
            key.into_os_string(),
        ]);
        let options: Vec<OsString> = options.collect();
        let on = || machines.on_network_of("cloud");
        let clouds = moto.serve(on, "0.0.0.0:5000".parse().unwrap(), &options, machines.directory());
        let endpoint = format!("https://{CLOUD}:5000");
        let cloud = RefCell::new(moto.converse(on(), &endpoint, Some(&certificate)));
        for name in ["web", "reviewer"] {
            cluster.put(objects::account("default", name));
        }
        let reviewer = cluster.token("default/reviewer", None, &["https://kubernetes.default.svc.cluster.local"]);
        let cluster_key = machines.done("s1", "weft keygen");
        for (name, _) in servers {
            machines.write(name, "/root/cloud.pem", &made.cert.pem());
            machines.write(name, "/etc/weft/reviewer", &reviewer);
            machines.write(name, "/etc/weft/kubernetes.pem", cluster.ca_pem());
            machines.write(name, "/etc/weft/cluster.key", &cluster_key);
            machines.done(
                name,
                &format!(
                    "chmod 600 /etc/weft/reviewer /etc/weft/cluster.key\necho '{CLOUD} sts.example' >> /etc/hosts"
                ),
            );
        }
        let platforms = Self { machines, cluster, servers, told, moto, cloud, _clouds: clouds, root: String::new() };
        (0..servers.len()).for_each(|at| platforms.start_server(at));
        platforms.machines.bootstrap();
        let roots: Value = serde_json::from_str(&platforms.weft("ca roots --output json")).unwrap();
        Some(Self { root: roots["Roots"][0]["ID"].as_str().unwrap().to_owned(), ..platforms })
    }

    /// Says whose word counts of who a workload is: the cluster's of pods, the cloud's of the tasks of these services.
    pub(crate) fn admit(&self, tasks: &[&str]) {
        let kubernetes = json!({"Host": self.cluster.url(), "BoundAudiences": [AUDIENCE]});
        let roles: Vec<String> = tasks.iter().map(|name| format!("arn:aws:iam::{ACCOUNT}:role/{name}")).collect();
        let aws = json!({"BoundIAMPrincipalARNs": roles, "STSEndpoint": STS});
        for (name, kind, config) in [("kubernetes", "kubernetes", kubernetes), ("aws", "aws-iam", aws)] {
            self.machines.write("s1", &format!("/root/{name}.json"), &config.to_string());
            self.weft(&format!("acl auth-method create {name} --type {kind} --config /root/{name}.json"));
        }
        let (pods, roles) =
            ("serviceaccount.namespace == \"default\"", "account_id == \"123456789012\" and entity_type == \"role\"");
        for (method, kind, name, selector) in [
            ("kubernetes", "service", "${serviceaccount.name}", pods),
            ("kubernetes", "node", "${pod.name}.${serviceaccount.namespace}", pods),
            ("aws", "service", "${entity_name}", roles),
            ("aws", "node", "${session_name}", roles),
        ] {
            self.weft(&format!(
                "acl binding-rule create --method {method} --bind-type {kind} --bind-name '{name}' --selector '{selector}'"
            ));
        }
    }

    /// Runs a command of weft's on the first server.
    #[track_caller]
    pub(crate) fn weft(&self, arguments: &str) -> String {
        self.machines.done("s1", &format!("weft {arguments}"))
    }

    pub(crate) fn start_server(&self, at: usize) {
        let (name, address) = self.servers[at];
        let others: String = self
            .servers
            .iter()
            .filter(|(other, _)| *other != name)
            .map(|(_, other)| format!(" --retry-join {other}:8301"))
            .collect();
        let start = format!(
            "export SSL_CERT_FILE=/root/cloud.pem\n\
             setsid weft server --node {name} --bind {address} --bootstrap-expect {count}{others} --data-dir /var/lib/weft/server \
             --cluster-key-file /etc/weft/cluster.key --kubernetes-token-file {host}=/etc/weft/reviewer \
             --kubernetes-ca-file {host}=/etc/weft/kubernetes.pem {told} >> $RUN/server.log 2>&1 < /dev/null & echo $! > $RUN/server.pid",
            count = self.servers.len(),
            host = self.cluster.url(),
            told = self.told
        );
        self.machines.done(name, &start);
    }

    pub(crate) fn kill_server(&self, at: usize) {
        self.machines.done(self.servers[at].0, "kill -9 $(cat $RUN/server.pid)");
    }

    /// Returns the nodes that the catalog has, in order; nothing while the first server does not say.
    pub(crate) fn nodes(&self) -> Option<Vec<String>> {
        let listed = self.machines.run("s1", "weft catalog nodes --output json");
        let listed: Vec<Value> = serde_json::from_slice(&listed.stdout).ok().filter(|_| listed.status.success())?;
        let mut nodes: Vec<String> = listed.iter().map(|node| node["Node"].as_str().unwrap().to_owned()).collect();
        nodes.sort();
        Some(nodes)
    }

    /// Gives a machine what Fargate gives a task: its metadata and its role's credentials are all that it has.
    pub(crate) fn make_task<'a>(&self, machine: &'a str, address: &'a str, family: &'a str, id: &'a str) -> Task<'a> {
        let machines = &self.machines;
        let credentials = self.cloud.borrow_mut().roles(&[(family, id)]);
        let task = Task { machine, address, id, family, sts: STS };
        task.prepare(machines, &credentials[id]);
        task
    }

    /// Reads a document of YAML.
    #[track_caller]
    pub(crate) fn read_yaml(&self, text: &str) -> Value {
        let read = "import json, sys, yaml; print(json.dumps(yaml.safe_load(sys.argv[1])))";
        serde_json::from_str(&printed(Command::new(self.moto.python()).args(["-c", read, text]))).unwrap()
    }

    /// Tells the cluster of a pod that it runs.
    pub(crate) fn make_pod(&self, address: &str, name: &str) {
        self.cluster.put(objects::pod("default", name, "weft-agent", address));
    }

    /// Returns what runs the cluster's pods on the machines; it asks them how they are from where the clouds are.
    pub(crate) fn kubelet(&self) -> Kubelet<'_> {
        Kubelet { machines: &self.machines, cluster: &self.cluster, on: "cloud" }
    }
}
