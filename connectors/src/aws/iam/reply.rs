//! What the Security Token Service answers, read strictly: nothing but its own form of answer says who somebody is.

/// The deepest that elements of an answer may be inside one another.
const DEPTH_MAX: usize = 8;
/// The most elements of an answer.
const ELEMENTS_MAX: usize = 64;
const NAMESPACE: &str = "https://sts.amazonaws.com/doc/2011-06-15/";

/// Is what the service says of whoever signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CallerIdentity {
    pub(super) arn: String,
    pub(super) user_id: String,
    pub(super) account: String,
}

impl CallerIdentity {
    /// Reads an answer. None where it is anything but the one that is expected, whole.
    pub(super) fn read(body: &[u8]) -> Option<Self> {
        let root = read(body)?;
        if root.name != "GetCallerIdentityResponse" || root.namespace.as_deref() != Some(NAMESPACE) {
            return None;
        }
        let result = root.only("GetCallerIdentityResult")?;
        let text = |name: &str| Some(result.only(name)?.text.clone()).filter(|text| !text.is_empty());
        Some(Self { arn: text("Arn")?, user_id: text("UserId")?, account: text("Account")? })
    }
}

/// Returns the code of an error that the service answers with, such as `ExpiredToken`.
pub(super) fn error_code(body: &[u8]) -> Option<String> {
    let root = read(body).filter(|root| root.name == "ErrorResponse")?;
    let code = &root.only("Error")?.only("Code")?.text;
    let is_code = (1..=64).contains(&code.len()) && code.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'.');
    is_code.then(|| code.clone())
}

/// Is one element: with text in it, or with other elements.
#[derive(Debug)]
struct Element {
    name: String,
    namespace: Option<String>,
    text: String,
    children: Vec<Element>,
}

impl Element {
    /// Returns the one element of a name; none where there are several.
    fn only(&self, name: &str) -> Option<&Self> {
        let mut found = self.children.iter().filter(|child| child.name == name);
        let first = found.next()?;
        found.next().is_none().then_some(first)
    }
}

/// Reads a document of elements and plain text. References, comments, sections and instructions are in no answer of the
/// service, and could hide something.
fn read(body: &[u8]) -> Option<Element> {
    let mut reader = Reader { rest: str::from_utf8(body).ok()?.trim(), elements: 0 };
    if let Some(after) = reader.rest.strip_prefix("<?xml ") {
        reader.rest = after.split_once("?>")?.1.trim_start();
    }
    let root = reader.element(0)?;
    reader.rest.is_empty().then_some(root)
}

struct Reader<'t> {
    rest: &'t str,
    elements: usize,
}

impl Reader<'_> {
    fn element(&mut self, depth: usize) -> Option<Element> {
        self.elements += 1;
        if depth > DEPTH_MAX || self.elements > ELEMENTS_MAX {
            return None;
        }
        let (tag, after) = self.rest.strip_prefix('<')?.split_once('>')?;
        self.rest = after;
        let (tag, is_empty) = tag.strip_suffix('/').map_or((tag, false), |tag| (tag, true));
        let (name, attributes) = tag.split_once(' ').unwrap_or((tag, ""));
        let is_name = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric());
        let namespace = match attributes.trim() {
            "" => None,
            text => {
                let value = text.strip_prefix("xmlns=")?;
                let quote = value.chars().next().filter(|quote| matches!(quote, '"' | '\''))?;
                let value = value.strip_prefix(quote)?.strip_suffix(quote)?;
                Some(value.to_owned()).filter(|value| !value.contains(['"', '\'', '&', '<']))
            }
        };
        if !is_name || (namespace.is_none() && !attributes.trim().is_empty()) {
            return None;
        }
        let mut element = Element { name: name.to_owned(), namespace, text: String::new(), children: Vec::new() };
        if is_empty {
            return Some(element);
        }
        loop {
            let (text, _) = self.rest.split_once('<')?;
            self.rest = &self.rest[text.len()..];
            if text.contains(['&', '>']) {
                return None;
            }
            element.text.push_str(text);
            if let Some(after) = self.rest.strip_prefix("</") {
                let (end, after) = after.split_once('>')?;
                if end != element.name {
                    return None;
                }
                self.rest = after;
                element.text = element.text.trim().to_owned();
                let is_mixed = !element.text.is_empty() && !element.children.is_empty();
                return (!is_mixed).then_some(element);
            }
            element.children.push(self.element(depth + 1)?);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER: &str = r#"<GetCallerIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">
  <GetCallerIdentityResult>
    <Arn>arn:aws:sts::123456789012:assumed-role/web/0a1b</Arn>
    <UserId>AROAEXAMPLE:0a1b</UserId>
    <Account>123456789012</Account>
  </GetCallerIdentityResult>
  <ResponseMetadata>
    <RequestId>01234567-89ab-cdef-0123-456789abcdef</RequestId>
  </ResponseMetadata>
</GetCallerIdentityResponse>
"#;

    #[test]
    fn the_services_own_answer_is_read() {
        let want = CallerIdentity {
            arn: "arn:aws:sts::123456789012:assumed-role/web/0a1b".to_owned(),
            user_id: "AROAEXAMPLE:0a1b".to_owned(),
            account: "123456789012".to_owned(),
        };
        assert_eq!(CallerIdentity::read(ANSWER.as_bytes()), Some(want.clone()));
        let declared = format!("<?xml version='1.0' encoding='utf-8'?>\n{ANSWER}");
        assert_eq!(CallerIdentity::read(declared.as_bytes()), Some(want.clone()));
        let on_one_line: String = ANSWER.lines().map(str::trim).collect();
        assert_eq!(CallerIdentity::read(on_one_line.as_bytes()), Some(want));
    }

    #[test]
    fn c11_nothing_else_is_taken_for_an_answer() {
        let arn = "<Arn>arn:aws:sts::123456789012:assumed-role/web/0a1b</Arn>";
        for (from, to) in [
            // Whoever can put text into an answer could put an element into it.
            (arn, "<Arn>arn:aws:iam::1:user/x</Arn><Arn>arn:aws:sts::123456789012:assumed-role/web/0a1b</Arn>"),
            (arn, "<Arn><Arn>arn:aws:iam::1:user/x</Arn></Arn>"),
            (arn, "<Arn><![CDATA[arn:aws:iam::1:user/x]]></Arn>"),
            (arn, "<Arn><!-- -->arn:aws:iam::1:user/x</Arn>"),
            (arn, "<Arn>arn:aws:iam::1:user/x&amp;</Arn>"),
            (arn, "<Arn x=\"y\">arn:aws:iam::1:user/x</Arn>"),
            (arn, "<Arn></Arn>"),
            (arn, "<Arn/>"),
            (arn, ""),
            ("<GetCallerIdentityResult>", "<GetCallerIdentityResult><GetCallerIdentityResult>"),
            ("<GetCallerIdentityResult>", "text <GetCallerIdentityResult>"),
            ("<GetCallerIdentityResponse ", "<GetFederationTokenResponse "),
            ("https://sts.amazonaws.com/doc/2011-06-15/", "https://evil.example/"),
            (" xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"", ""),
            ("</GetCallerIdentityResponse>", "</GetCallerIdentityResponse><a/>"),
            ("<GetCallerIdentityResponse", "<!DOCTYPE x []><GetCallerIdentityResponse"),
            ("<UserId>AROAEXAMPLE:0a1b</UserId>", ""),
        ] {
            let answer = ANSWER.replacen(from, to, 1);
            assert_ne!(answer, ANSWER);
            assert_eq!(CallerIdentity::read(answer.as_bytes()), None, "{to}");
        }
        for other in ["", "{}", r#"{"GetCallerIdentityResponse":{}}"#, "<html></html>", "\u{0}", "<", "<a", "<a>"] {
            assert_eq!(CallerIdentity::read(other.as_bytes()), None, "{other}");
        }
        assert_eq!(CallerIdentity::read(&ANSWER.as_bytes()[..100]), None);
        assert_eq!(CallerIdentity::read("<a>".repeat(10_000).as_bytes()), None);
    }

    #[test]
    fn an_errors_code_is_read() {
        let error = r#"<ErrorResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><Error><Type>Sender</Type>
            <Code>ExpiredToken</Code><Message>The security token is expired</Message></Error></ErrorResponse>"#;
        assert_eq!(error_code(error.as_bytes()).as_deref(), Some("ExpiredToken"));
        assert_eq!(error_code(error.replace("ExpiredToken", "a b").as_bytes()), None);
        assert_eq!(error_code(ANSWER.as_bytes()), None);
    }
}
