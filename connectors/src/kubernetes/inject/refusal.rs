//! Why a pod is not let in.

use super::{MAY_BYPASS_LABEL, NODE_NAME_BYTES_MAX};

/// Says why a pod must not run in the mesh as it is, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is no pod in it.
    #[error("it is no pod: `spec.containers` holds no container")]
    NoPod,
    /// No agent can stand in it.
    #[error(
        "no agent can be put beside this pod: {reason}; run it in a namespace that weft does not inject into, or have the \
         namespace labelled `{MAY_BYPASS_LABEL}: \"true\"`"
    )]
    Unfit {
        /// Why.
        reason: &'static str,
    },
    /// A container would pass for the agent.
    #[error(
        "container `{container}` runs as user {uid}, which is the agent's own and whose traffic goes past the mesh: give it \
         another `securityContext.runAsUser`"
    )]
    ReservedUid {
        /// The container.
        container: String,
        /// The user.
        uid: u32,
    },
    /// A container would see the agent's keys.
    #[error("container `{container}` mounts volume `{volume}`, which is the agent's own: take that mount out")]
    ReservedVolume {
        /// The container.
        container: String,
        /// The volume.
        volume: String,
    },
    /// Its node's name would be none.
    #[error(
        "its node in the mesh would be called `{node}`, which has {bytes} bytes, and {NODE_NAME_BYTES_MAX} are the most: give the \
         pod a shorter name"
    )]
    LongName {
        /// The name.
        node: String,
        /// How long it is.
        bytes: usize,
    },
    /// The agent cannot ask the application what its kubelet would.
    #[error("the {probe} probe of container `{container}` cannot be made by the agent: {problem}")]
    Probe {
        /// The container.
        container: String,
        /// The probe.
        probe: &'static str,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// An annotation leads past the mesh, and nobody granted that.
    #[error(
        "annotation `{annotation}` leads past the mesh, which a pod may not decide alone: take it out, or have whoever \
         administers the namespace label it `{MAY_BYPASS_LABEL}: \"true\"`"
    )]
    Knob {
        /// The annotation.
        annotation: String,
    },
    /// A container that is added would be let into the agent's.
    #[error("container `{container}` would enter the agent's, and read its keys: target another container")]
    EntersAgent {
        /// The container.
        container: String,
    },
    /// An annotation cannot be carried out.
    #[error("annotation `{annotation}: {value}` cannot be carried out: {problem}")]
    Annotation {
        /// The annotation.
        annotation: String,
        /// What it says.
        value: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Nobody says which service this is.
    #[error(
        "nothing says which service this pod serves: give it a service account of the service's name, or name the service by \
         the annotation `weft.dev/service`"
    )]
    NoService,
    /// The service's name is none.
    #[error("service account `{account}` cannot be the service's name: name one by the annotation `weft.dev/service`")]
    AccountIsNoService {
        /// The account.
        account: String,
    },
    /// The agent would keep the pod from ever ending.
    #[error("a pod that ends by itself needs an agent that ends with it, and so Kubernetes 1.29 or later")]
    NeverEnds,
    /// There is no redirection to give.
    #[error("redirection is asked for, but the injector has no image for it: name one as its `redirect_image`")]
    NoRedirectImage,
}
