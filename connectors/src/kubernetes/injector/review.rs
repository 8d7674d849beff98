//! What the API server asks of the injector, and what it is told: bytes in, an answer out.

use data_encoding::BASE64;
use kube::core::DynamicObject;
use kube::core::admission::{AdmissionRequest, AdmissionReview, META_API_VERSION_V1, META_KIND, Operation};
use serde_json::{Value, json};

use crate::kubernetes::inject::{self, Knobs, Outcome, Settings};

/// A request for a pod is no longer: Kubernetes itself keeps objects below half of that.
pub(super) const REVIEW_BYTES_MAX: usize = 3 * 1024 * 1024;
/// The API server cuts warnings off at this length.
const WARNING_BYTES_MAX: usize = 256;

/// Why there is no answer, and the API server is told that its question is none.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReviewError {
    #[error("the question is not JSON")]
    Json(#[source] serde_json::Error),
    #[error("the question is no AdmissionReview of {META_API_VERSION_V1}: it says {kind} of {version}")]
    Version { kind: String, version: String },
    #[error("the question is no AdmissionReview that can be read")]
    Form(#[source] serde_json::Error),
    #[error("the AdmissionReview asks nothing")]
    Empty,
}

/// Is an answer, and what there is to count and log of it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Reviewed {
    pub(super) answer: Value,
    pub(super) verdict: Verdict,
    /// The pod, as far as its name is known.
    pub(super) pod: String,
}

/// Is what was decided, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Verdict {
    Injected,
    LeftAlone,
    Refused,
}

impl Verdict {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Injected => "injected",
            Self::LeftAlone => "left_alone",
            Self::Refused => "refused",
        }
    }
}

/// Answers one question.
///
/// # Errors
///
/// [`ReviewError`] where it is no question that can be answered; the API server then does as its configuration says.
pub(super) fn review(body: &[u8], settings: &Settings, knobs: Knobs) -> Result<Reviewed, ReviewError> {
    let document: Value = serde_json::from_slice(body).map_err(ReviewError::Json)?;
    let word = |name: &str| document.get(name).and_then(Value::as_str).unwrap_or("nothing").to_owned();
    let (kind, version) = (word("kind"), word("apiVersion"));
    if kind != META_KIND || version != META_API_VERSION_V1 {
        return Err(ReviewError::Version { kind, version });
    }
    // The pod is taken as it was written, for what this build does not know of it must stay.
    let object = document.pointer("/request/object").cloned().unwrap_or_default();
    let asked: AdmissionReview<DynamicObject> = serde_json::from_value(document).map_err(ReviewError::Form)?;
    let request = asked.request.ok_or(ReviewError::Empty)?;
    Ok(answer(&request, object, settings, knobs))
}

fn answer(request: &AdmissionRequest<DynamicObject>, object: Value, settings: &Settings, knobs: Knobs) -> Reviewed {
    let metadata = request.object.as_ref().map(|object| &object.metadata);
    let name = metadata.and_then(|it| it.name.clone().or_else(|| it.generate_name.clone()));
    let pod = format!("{}/{}", request.namespace.as_deref().unwrap_or_default(), name.unwrap_or_default());
    let resource = &request.resource;
    let is_pod = resource.group.is_empty() && resource.version == "v1" && resource.resource == "pods";
    let part = request.sub_resource.as_deref().unwrap_or_default();
    let (verdict, response) = match (&request.operation, part) {
        (Operation::Create, "") if is_pod => create(within(object, request.namespace.as_deref()), settings, knobs),
        (Operation::Update, "ephemeralcontainers") if is_pod => {
            match inject::check_added_containers(&object, settings, knobs) {
                Ok(()) => (Verdict::LeftAlone, json!({ "allowed": true })),
                Err(refusal) => refused(&refusal.to_string()),
            }
        }
        _ => refused("the injector is asked about something else than a new pod: correct its webhook configuration"),
    };
    let mut response = response;
    response["uid"] = json!(request.uid);
    let answer = json!({ "apiVersion": META_API_VERSION_V1, "kind": META_KIND, "response": response });
    Reviewed { answer, verdict, pod }
}

/// Says in which namespace a pod is made, where its author left that to the request: it is named by both.
fn within(mut object: Value, namespace: Option<&str>) -> Value {
    if let (Some(namespace), Some(metadata)) = (namespace, object.get_mut("metadata").and_then(Value::as_object_mut)) {
        metadata.entry("namespace").or_insert_with(|| json!(namespace));
    }
    object
}

fn create(object: Value, settings: &Settings, knobs: Knobs) -> (Verdict, Value) {
    let mut pod = object.clone();
    match inject::inject(&mut pod, settings, knobs) {
        Ok(Outcome::Injected { warnings }) => (Verdict::Injected, changed(&object, &pod, &warnings)),
        Ok(Outcome::LeftAlone { reason }) => {
            let warning = format!("weft: this pod is not in the mesh: {reason}");
            (Verdict::LeftAlone, changed(&object, &pod, &[warning]))
        }
        Err(refusal) => refused(&refusal.to_string()),
    }
}

fn changed(before: &Value, after: &Value, warnings: &[String]) -> Value {
    let mut response = json!({ "allowed": true });
    let patch = inject::difference(before, after);
    if !patch.is_empty() {
        response["patchType"] = json!("JSONPatch");
        response["patch"] = json!(BASE64.encode(Value::Array(patch).to_string().as_bytes()));
    }
    if !warnings.is_empty() {
        response["warnings"] = warnings.iter().map(|warning| shortened(warning)).collect();
    }
    response
}

fn refused(message: &str) -> (Verdict, Value) {
    let status = json!({ "status": "Failure", "message": message, "reason": "Forbidden", "code": 403 });
    (Verdict::Refused, json!({ "allowed": false, "status": status }))
}

/// Cuts a text where the API server would.
fn shortened(text: &str) -> String {
    let end = (0..=WARNING_BYTES_MAX.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    text.get(..end).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubernetes::inject::testing::{pod, settings};

    fn question(object: &Value, change: impl FnOnce(&mut Value)) -> Vec<u8> {
        let mut question = json!({
            "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
            "request": {
                "uid": "u-1", "kind": { "group": "", "version": "v1", "kind": "Pod" },
                "resource": { "group": "", "version": "v1", "resource": "pods" }, "name": "web-1", "namespace": "shop",
                "operation": "CREATE", "userInfo": { "username": "someone" }, "object": object, "oldObject": null,
                "dryRun": false, "options": {},
            }
        });
        change(&mut question);
        question.to_string().into_bytes()
    }

    fn reviewed(object: &Value, change: impl FnOnce(&mut Value)) -> Reviewed {
        review(&question(object, change), &settings(), Knobs::Withheld).unwrap()
    }

    #[test]
    fn a_new_pod_gets_a_patch_and_an_injected_one_none() {
        let found = reviewed(&pod(), |_| {});
        assert_eq!((found.verdict, found.pod.as_str()), (Verdict::Injected, "shop/web-1"));
        let response = &found.answer["response"];
        assert_eq!(
            (&response["uid"], &response["allowed"], &response["patchType"]),
            (&json!("u-1"), &json!(true), &json!("JSONPatch"))
        );
        let patch = BASE64.decode(response["patch"].as_str().unwrap().as_bytes()).unwrap();
        let patch: Vec<Value> = serde_json::from_slice(&patch).unwrap();
        assert!(patch.iter().any(|it| it["path"] == "/spec/initContainers"), "{patch:?}");
        let mut already = pod();
        inject::inject(&mut already, &settings(), Knobs::Withheld).unwrap();
        let again = reviewed(&already, |_| {});
        assert_eq!(again.answer["response"], json!({ "uid": "u-1", "allowed": true }));
    }

    #[test]
    fn k1_a_refusal_says_what_to_do() {
        let mut host = pod();
        host["spec"]["hostNetwork"] = json!(true);
        let found = reviewed(&host, |_| {});
        assert_eq!(found.verdict, Verdict::Refused);
        let status = &found.answer["response"]["status"];
        assert_eq!(status["code"], 403);
        assert!(status["message"].as_str().unwrap().contains("may-bypass"), "{status}");
        let granted = review(&question(&host, |_| {}), &settings(), Knobs::Granted).unwrap();
        let warning = granted.answer["response"]["warnings"][0].as_str().unwrap();
        assert!(warning.contains("not in the mesh") && warning.len() <= WARNING_BYTES_MAX, "{warning}");
    }

    #[test]
    fn k1_a_pod_is_named_by_the_namespace_of_the_request_where_it_names_none() {
        let mut short = pod();
        short["metadata"].as_object_mut().unwrap().remove("namespace");
        let found = reviewed(&short, |_| {});
        assert_eq!(found.verdict, Verdict::Injected);
        let patch = BASE64.decode(found.answer["response"]["patch"].as_str().unwrap().as_bytes()).unwrap();
        let patch: Vec<Value> = serde_json::from_slice(&patch).unwrap();
        assert!(patch.iter().all(|it| it["path"] != "/metadata/namespace"), "{patch:?}");
        let mut long = short;
        long["metadata"]["name"] = json!("n".repeat(125));
        assert_eq!(reviewed(&long, |_| {}).verdict, Verdict::Refused, "with the namespace it is too long for a node");
        long["metadata"]["name"] = json!("n".repeat(120));
        assert_eq!(reviewed(&long, |_| {}).verdict, Verdict::Injected);
    }

    #[test]
    fn k1_a_container_that_is_added_later_may_not_pass_for_the_agent() {
        let mut running = pod();
        let later = |question: &mut Value| {
            question["request"]["operation"] = json!("UPDATE");
            question["request"]["subResource"] = json!("ephemeralcontainers");
        };
        assert_eq!(reviewed(&running, later).verdict, Verdict::LeftAlone);
        running["spec"]["ephemeralContainers"] =
            json!([{ "name": "debug", "securityContext": { "runAsUser": settings().agent_uid } }]);
        assert_eq!(reviewed(&running, later).verdict, Verdict::Refused);
    }

    #[test]
    fn k1_what_is_no_question_of_version_one_is_not_answered() {
        let refused = |change: fn(&mut Value), want: &str| {
            let error = review(&question(&pod(), change), &settings(), Knobs::Withheld).unwrap_err();
            assert!(wire::one_line(&error).to_string().contains(want), "{error:?}");
        };
        refused(|question| question["apiVersion"] = json!("admission.k8s.io/v1beta1"), "v1beta1");
        refused(|question| question["kind"] = json!("Pod"), "says Pod");
        refused(|question| question["request"] = Value::Null, "asks nothing");
        refused(|question| question["request"]["uid"] = json!(7), "can be read");
        refused(|question| question["request"]["operation"] = json!("EAT"), "can be read");
        assert!(matches!(review(b"{", &settings(), Knobs::Withheld), Err(ReviewError::Json(_))));
        // A stack is not there to be exhausted.
        let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(matches!(review(deep.as_bytes(), &settings(), Knobs::Withheld), Err(ReviewError::Json(_))));
        let other = reviewed(&pod(), |question| question["request"]["resource"]["resource"] = json!("secrets"));
        assert_eq!(other.verdict, Verdict::Refused);
        let deleted = reviewed(&pod(), |question| question["request"]["operation"] = json!("DELETE"));
        assert_eq!(deleted.verdict, Verdict::Refused);
    }
}
