//! Who asks: tokens of service accounts, asked for, shown and reviewed.

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde_json::{Value, json};

use super::store::{Refused, Store};

const VERSION: &str = "authentication.k8s.io/v1";
/// Whom the server's own tokens are for.
const API_AUDIENCE: &str = "https://kubernetes.default.svc.cluster.local";

/// Signs and reads tokens of service accounts.
pub(super) struct Tokens(rcgen::KeyPair);

impl Tokens {
    pub(super) fn new() -> Self {
        Self(rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap())
    }

    pub(super) fn sign(&self, claims: &Value) -> String {
        let key = EncodingKey::from_ec_pem(self.0.serialize_pem().as_bytes()).unwrap();
        jsonwebtoken::encode(&Header::new(Algorithm::ES256), claims, &key).unwrap()
    }

    /// Answers a TokenRequest: the token of an account, bound to a pod if it says so.
    pub(super) fn grant(&self, store: &Store, namespace: &str, name: &str, spec: &Value) -> Result<Value, Refused> {
        let uid = &store.get("serviceaccounts", namespace, name)?["metadata"]["uid"];
        let (now, lifetime) = (wire::crypto::now().0 / 1000, spec["expirationSeconds"].as_u64().unwrap_or(3600));
        let mut own = json!({"namespace": namespace, "serviceaccount": {"name": name, "uid": uid}});
        if let Some(pod) = spec["boundObjectRef"]["name"].as_str() {
            own["pod"] = json!({"name": pod, "uid": store.get("pods", namespace, pod)?["metadata"]["uid"]});
        }
        let audiences = if spec["audiences"].is_array() { spec["audiences"].clone() } else { json!([API_AUDIENCE]) };
        let token = self.sign(&json!({
            "iss": API_AUDIENCE, "aud": audiences, "sub": format!("system:serviceaccount:{namespace}:{name}"),
            "iat": now, "nbf": now, "exp": now + lifetime, "kubernetes.io": own,
        }));
        let status = json!({"token": token, "expirationTimestamp": time(now + lifetime)});
        Ok(json!({"apiVersion": VERSION, "kind": "TokenRequest", "metadata": {}, "spec": spec, "status": status}))
    }

    /// Answers a TokenReview.
    pub(super) fn review(&self, store: &Store, review: &Value) -> Value {
        let spec = &review["spec"];
        let audiences = spec["audiences"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let status = match self.judge(store, spec["token"].as_str().unwrap_or_default(), audiences) {
            Ok((user, shared)) => json!({"authenticated": true, "user": user, "audiences": shared}),
            Err(error) => json!({"user": {}, "error": error}),
        };
        json!({"apiVersion": VERSION, "kind": "TokenReview", "metadata": {}, "spec": spec, "status": status})
    }

    /// Says who shows a token to the server itself.
    pub(super) fn user(&self, store: &Store, token: &str) -> Option<String> {
        Some(self.judge(store, token, Vec::new()).ok()?.0["username"].as_str()?.to_owned())
    }

    /// Says whose a token is, if its account and its pod live, and which of these audiences it is for.
    fn judge<'a>(&self, store: &Store, token: &str, mut asked: Vec<&'a str>) -> Result<(Value, Vec<&'a str>), String> {
        let key = DecodingKey::from_ec_pem(self.0.public_key_pem().as_bytes()).unwrap();
        let mut rules = Validation::new(Algorithm::ES256);
        (rules.validate_aud, rules.leeway) = (false, 0);
        rules.required_spec_claims.clear();
        let read = jsonwebtoken::decode::<Value>(token, &key, &rules);
        let claims = read.map_err(|error| format!("invalid bearer token: {error}"))?.claims;
        if asked.is_empty() {
            asked.push(API_AUDIENCE);
        }
        asked.retain(|audience| claims["aud"].as_array().is_some_and(|named| named.iter().any(|one| one == audience)));
        if asked.is_empty() {
            return Err(format!("token audiences {} are other ones than the target audiences", claims["aud"]));
        }
        let own = &claims["kubernetes.io"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (namespace, account) = (text(&own["namespace"]), &own["serviceaccount"]);
        let lives = |resource: &str, named: &Value| {
            let living = store.get(resource, &namespace, &text(&named["name"])).map_err(|(_, _, message)| message)?;
            let is_same = living["metadata"]["uid"] == named["uid"];
            is_same.then_some(()).ok_or_else(|| format!("that of the {resource} is another one by now"))
        };
        lives("serviceaccounts", account)?;
        let mut extra = json!({});
        if !own["pod"].is_null() {
            lives("pods", &own["pod"])?;
            extra["authentication.kubernetes.io/pod-name"] = json!([own["pod"]["name"]]);
            extra["authentication.kubernetes.io/pod-uid"] = json!([own["pod"]["uid"]]);
        }
        let username = format!("system:serviceaccount:{namespace}:{}", text(&account["name"]));
        let groups = ["system:serviceaccounts", "system:authenticated"];
        Ok((json!({"username": username, "uid": account["uid"], "extra": extra, "groups": groups}), asked))
    }
}

/// Writes a time as objects have it.
pub(super) fn time(seconds: u64) -> String {
    wire::rfc3339::format(catalog::Timestamp(seconds * 1000))
}
