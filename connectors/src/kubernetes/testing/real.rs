//! A real API server with its store, as the test environment of Kubernetes' own controllers starts it.

use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use super::authority::{Authority, client_certificate, kubeconfig};

/// Is a running server; it ends with this.
pub(super) struct RealServer {
    processes: Vec<Child>,
    port: u16,
    ca_pem: String,
    admin: Value,
    _directory: tempfile::TempDir,
}

fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

impl RealServer {
    /// Starts `etcd` and `kube-apiserver` of a folder, and waits until they are ready.
    pub(super) async fn start(assets: &Path) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let authority = Authority::new("kubernetes");
        let (certificate, key) =
            authority.sign("kube-apiserver", "weft", &["localhost", "127.0.0.1"].map(str::to_owned));
        let own = (certificate.pem(), key.serialize_pem());
        let (certificate, key) = authority.sign("kubernetes-admin", "system:masters", &[]);
        let (admin, ca_pem) = (client_certificate(&certificate, &key), authority.pem().to_owned());
        let accounts = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let file = |name: &str, text: &str| {
            let path = directory.path().join(name);
            std::fs::write(&path, text).unwrap();
            path.display().to_string()
        };
        let (certificate, key, client_ca) = (file("own.pem", &own.0), file("own.key", &own.1), file("ca.pem", &ca_pem));
        let (public, private) =
            (file("accounts.pub", &accounts.public_key_pem()), file("accounts.key", &accounts.serialize_pem()));
        let [clients, peers, port] = [free_port(), free_port(), free_port()];
        let at = |port: u16| format!("http://127.0.0.1:{port}");
        let data = directory.path().join("etcd").display().to_string();
        let etcd = [
            ("data-dir", data),
            ("listen-client-urls", at(clients)),
            ("advertise-client-urls", at(clients)),
            ("listen-peer-urls", at(peers)),
            ("initial-advertise-peer-urls", at(peers)),
            ("initial-cluster", format!("default={}", at(peers))),
        ];
        let issuer = "https://kubernetes.default.svc.cluster.local".to_owned();
        let api = [
            ("etcd-servers", at(clients)),
            ("bind-address", "127.0.0.1".to_owned()),
            ("secure-port", port.to_string()),
            ("tls-cert-file", certificate),
            ("tls-private-key-file", key),
            ("client-ca-file", client_ca),
            ("service-account-issuer", issuer),
            ("service-account-key-file", public),
            ("service-account-signing-key-file", private),
            ("service-cluster-ip-range", "10.0.0.0/24".to_owned()),
            ("authorization-mode", "RBAC".to_owned()),
            ("disable-admission-plugins", "ServiceAccount".to_owned()),
        ];
        let run = |name: &str, flags: &[(&str, String)]| {
            let mut command = Command::new(assets.join(name));
            command.args(flags.iter().map(|(flag, value)| format!("--{flag}={value}")));
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            command.spawn().unwrap_or_else(|error| panic!("starting {name}: {error}"))
        };
        let processes = vec![run("etcd", &etcd), run("kube-apiserver", &api)];
        let server = Self { processes, port, ca_pem, admin, _directory: directory };
        wire::crypto::install_provider();
        let client = super::client(server.config()).await;
        super::eventually("the API server to be ready", || async {
            let request = http::Request::get("/readyz").body(Vec::new()).unwrap();
            client.request_text(request).await.ok()
        })
        .await;
        server
    }

    /// Returns the configuration of a client who may do everything.
    pub(super) fn config(&self) -> Value {
        kubeconfig(&format!("https://127.0.0.1:{}", self.port), &self.ca_pem, &self.admin)
    }
}

impl Drop for RealServer {
    fn drop(&mut self) {
        for process in self.processes.iter_mut().rev() {
            let _ended_before = process.kill();
            let _reaped = process.wait();
        }
    }
}
