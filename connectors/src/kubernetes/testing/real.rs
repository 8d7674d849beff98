//! A real API server with its store, as the test environment of Kubernetes' own controllers starts it.

use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use serde_json::{Value, json};

/// Is a running server; it ends with this.
pub(super) struct RealServer {
    processes: Vec<Child>,
    port: u16,
    ca_pem: String,
    admin: (String, String),
    _directory: tempfile::TempDir,
}

fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

/// Signs a certificate for a name, and returns it with its key, PEM.
fn signed(ca: &Issuer<'static, KeyPair>, name: &str, organization: &str) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.distinguished_name.push(DnType::OrganizationName, organization);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
    (params.signed_by(&key, ca).unwrap().pem(), key.serialize_pem())
}

impl RealServer {
    /// Starts `etcd` and `kube-apiserver` of a folder, and waits until they are ready.
    pub(super) async fn start(assets: &Path) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "kubernetes");
        let ca_pem = params.self_signed(&key).unwrap().pem();
        let ca = Issuer::new(params, key);
        let own = signed(&ca, "kube-apiserver", "weft");
        let admin = signed(&ca, "kubernetes-admin", "system:masters");
        let accounts = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
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
        let encode = |text: &str| data_encoding::BASE64.encode(text.as_bytes());
        let server = format!("https://127.0.0.1:{}", self.port);
        json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "real",
            "clusters": [{"name": "real", "cluster": {
                "server": server, "certificate-authority-data": encode(&self.ca_pem),
            }}],
            "users": [{"name": "real", "user": {
                "client-certificate-data": encode(&self.admin.0), "client-key-data": encode(&self.admin.1),
            }}],
            "contexts": [{"name": "real", "context": {"cluster": "real", "user": "real"}}],
        })
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
