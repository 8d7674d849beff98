//! Who asks: tokens of service accounts, asked for, shown and reviewed.

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde_json::{Value, json};

use super::store::{Refused, Store};

/// Whom the server's own tokens are for.
const API_AUDIENCE: &str = "https://kubernetes.default.svc.cluster.local";

/// Signs and reads tokens of service accounts.
pub(super) struct Tokens(pub(super) rcgen::KeyPair);

impl Tokens {
    pub(super) fn sign(&self, claims: &Value) -> String {
        let key = EncodingKey::from_ec_pem(self.0.serialize_pem().as_bytes()).unwrap();
        jsonwebtoken::encode(&Header::new(Algorithm::ES256), claims, &key).unwrap()
    }

    /// Answers a TokenRequest: the token of an account, bound to a pod if it says so.
    pub(super) fn grant(&self, store: &Store, namespace: &str, name: &str, spec: &Value) -> Result<Value, Refused> {
        let account = store.get("serviceaccounts", namespace, name)?;
        let now = wire::crypto::now().0 / 1000;
        let lifetime = spec["expirationSeconds"].as_u64().unwrap_or(3600);
        if lifetime < 600 {
            return Err((422, "Invalid", "may not specify a duration less than 10 minutes".to_owned()));
        }
        let uid = &account["metadata"]["uid"];
        let mut own = json!({"namespace": namespace, "serviceaccount": {"name": name, "uid": uid}});
        if let Some(pod) = spec["boundObjectRef"]["name"].as_str() {
            let uid = &store.get("pods", namespace, pod)?["metadata"]["uid"];
            own["pod"] = json!({"name": pod, "uid": uid});
        }
        let audiences = if spec["audiences"].is_array() { spec["audiences"].clone() } else { json!([API_AUDIENCE]) };
        let token = self.sign(&json!({
            "iss": API_AUDIENCE, "aud": audiences, "sub": format!("system:serviceaccount:{namespace}:{name}"),
            "iat": now, "nbf": now, "exp": now + lifetime, "kubernetes.io": own,
        }));
        let status = json!({"token": token, "expirationTimestamp": time(now + lifetime)});
        let (version, kind) = ("authentication.k8s.io/v1", "TokenRequest");
        Ok(json!({"apiVersion": version, "kind": kind, "metadata": {}, "spec": spec, "status": status}))
    }

    /// Answers a TokenReview.
    pub(super) fn review(&self, store: &Store, review: &Value) -> Value {
        let spec = &review["spec"];
        let audiences = spec["audiences"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let audiences: Vec<String> = audiences.map(str::to_owned).collect();
        let status = match self.judge(store, spec["token"].as_str().unwrap_or_default(), &audiences) {
            Ok((user, shared)) => json!({"authenticated": true, "user": user, "audiences": shared}),
            Err(error) => json!({"user": {}, "error": error}),
        };
        let (version, kind) = ("authentication.k8s.io/v1", "TokenReview");
        json!({"apiVersion": version, "kind": kind, "metadata": {}, "spec": spec, "status": status})
    }

    /// Says who shows a token to the server itself.
    pub(super) fn user(&self, store: &Store, token: &str) -> Option<String> {
        Some(self.judge(store, token, &[]).ok()?.0["username"].as_str()?.to_owned())
    }

    /// Says whose a token is, if its account and its pod live, and which of these audiences it is for.
    fn judge(&self, store: &Store, token: &str, audiences: &[String]) -> Result<(Value, Vec<String>), String> {
        let key = DecodingKey::from_ec_pem(self.0.public_key_pem().as_bytes()).unwrap();
        let mut rules = Validation::new(Algorithm::ES256);
        (rules.validate_aud, rules.leeway) = (false, 0);
        rules.required_spec_claims.clear();
        let read = jsonwebtoken::decode::<Value>(token, &key, &rules);
        let claims = read.map_err(|error| format!("invalid bearer token: {error}"))?.claims;
        // A token out of a Secret, as clusters made them once, is for the server alone and never ends.
        let legacy = claims["kubernetes.io/serviceaccount/namespace"].as_str();
        let named: Vec<&str> = match &claims["aud"] {
            _ if legacy.is_some() => vec![API_AUDIENCE],
            Value::Array(all) => all.iter().filter_map(Value::as_str).collect(),
            one => one.as_str().into_iter().collect(),
        };
        let asked = if audiences.is_empty() { vec![API_AUDIENCE.to_owned()] } else { audiences.to_vec() };
        let shared: Vec<String> = asked.into_iter().filter(|audience| named.contains(&audience.as_str())).collect();
        if shared.is_empty() {
            return Err(format!("token audiences {named:?} is invalid for the target audiences {audiences:?}"));
        }
        let own = &claims["kubernetes.io"];
        let namespace = legacy.or(own["namespace"].as_str()).unwrap_or_default();
        let account = claims["kubernetes.io/serviceaccount/service-account.name"].as_str();
        let account = account.or(own["serviceaccount"]["name"].as_str()).unwrap_or_default();
        let found = store.get("serviceaccounts", namespace, account).map_err(|(_, _, message)| message)?;
        let uid = &found["metadata"]["uid"];
        if legacy.is_none() && own["serviceaccount"]["uid"] != *uid {
            return Err("the service account is another one by now".to_owned());
        }
        let mut extra = json!({});
        if let Some(pod) = own["pod"]["name"].as_str() {
            let living = store.get("pods", namespace, pod).map_err(|(_, _, message)| message)?;
            if living["metadata"]["uid"] != own["pod"]["uid"] {
                return Err("the pod is another one by now".to_owned());
            }
            extra["authentication.kubernetes.io/pod-name"] = json!([pod]);
            extra["authentication.kubernetes.io/pod-uid"] = json!([own["pod"]["uid"]]);
        }
        let groups = ["system:serviceaccounts", "system:authenticated"];
        let username = format!("system:serviceaccount:{namespace}:{account}");
        Ok((json!({"username": username, "uid": uid, "extra": extra, "groups": groups}), shared))
    }
}

/// Writes a time as objects have it.
pub(super) fn time(seconds: u64) -> String {
    wire::rfc3339::format(catalog::Timestamp(seconds * 1000))
}
