//! Expectations as code: what rules are expected to decide.

use catalog::{Namespace, ServiceKey, ServicePattern};
use serde::Serialize;

use crate::api_types::Explanation;
use crate::asked_request::AskedRequest;
use crate::decode::{DecodeError, Fields, Shape};

/// Says what is expected of one call.
#[derive(Debug, Clone, PartialEq)]
pub struct Expectation {
    /// What it is called in reports.
    pub name: String,
    source: String,
    destination: String,
    /// The request; none where a connection is asked about.
    pub request: Option<AskedRequest>,
    /// What is expected: `allow`, `deny`, or `per-request` of a connection.
    pub decision: String,
    /// What the deciding rule's words must hold; empty for any.
    pub rule: String,
}

/// Holds the expectations of one document, under `Expect`.
#[derive(Debug, Clone, PartialEq)]
pub struct Expectations(pub Vec<Expectation>);

/// Says what became of an expectation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Judged {
    /// What it is called.
    pub name: String,
    /// Whether it holds.
    pub holds: bool,
    /// What is expected.
    pub expected: String,
    /// What is decided, or why nothing could be.
    pub found: String,
}

impl Shape for Expectations {
    fn read(fields: &mut Fields) -> Result<Self, DecodeError> {
        let expectations = fields.objects("Expect", Expectation::read)?;
        if expectations.is_empty() {
            return Err(fields.refuse("Expect", "there are none; write at least one"));
        }
        Ok(Self(expectations))
    }
}

impl Expectation {
    fn read(fields: &mut Fields) -> Result<Self, DecodeError> {
        let (source, destination): (String, String) = (fields.required("Source")?, fields.required("Destination")?);
        let decision: String = fields.required("Decision")?;
        if !matches!(decision.as_str(), "allow" | "deny" | "per-request") {
            return Err(fields.refuse("Decision", "send `allow` or `deny`, or `per-request` for a connection"));
        }
        let rule = fields.text("Rule")?;
        let name = fields.text("Name")?;
        let request = AskedRequest::read(fields)?;
        let said = request.as_ref().map(|request| format!(" {} {}", request.method(), request.path()));
        let name =
            if name.is_empty() { format!("{source} => {destination}{}", said.unwrap_or_default()) } else { name };
        Ok(Self { name, source, destination, request, decision, rule })
    }

    /// Returns who calls whom. Names without a namespace are of `current`.
    ///
    /// # Errors
    ///
    /// What is wrong with the names.
    pub fn pair(&self, current: &Namespace) -> Result<(ServiceKey, ServiceKey), String> {
        let service = |text: &str| match ServicePattern::parse(text, current) {
            Ok(ServicePattern::Exact(key)) => Ok(key),
            Ok(_) => Err(format!("`{text}` is not one service: name it")),
            Err(error) => Err(error.to_string()),
        };
        Ok((service(&self.source)?, service(&self.destination)?))
    }

    /// Holds what was found against what is expected. What cannot be asked is no answer, and so not the one expected.
    #[must_use]
    pub fn judge(&self, found: Result<&Explanation, &str>) -> Judged {
        let expected = if self.rule.is_empty() {
            self.decision.clone()
        } else {
            format!("{}, by what holds `{}`", self.decision, self.rule)
        };
        let (holds, found) = match found {
            Ok(explanation) => {
                let holds = explanation.answer() == self.decision && explanation.rule().contains(&self.rule);
                (holds, format!("{}, by {}", explanation.answer(), explanation.rule()))
            }
            Err(why) => (false, format!("no answer: {why}")),
        };
        Judged { name: self.name.clone(), holds, expected, found }
    }
}
