//! The one normal form of a request, from the head that it was read from: what is decided on is what is forwarded.

use catalog::http::{HttpVersion, NormalAuthority, NormalPath, NotNormal, check_fields, check_method};
use http::header::{HOST, HeaderValue};
use http::request::Parts;
use http::uri::{Authority, PathAndQuery};
use http::{Method, Version};

use super::head::BadRequest;

/// Holds the texts that a request's normal form is read from. Cloning shares them.
#[derive(Debug, Clone)]
pub(crate) struct Lines {
    method: Method,
    version: Version,
    target: Option<PathAndQuery>,
    authority: Option<Authority>,
    host: Option<HeaderValue>,
}

/// Is a request in its normal form.
#[derive(Debug)]
pub(crate) struct Normal<'a> {
    /// Its method.
    pub(crate) method: &'a str,
    /// Whom it names; nobody in HTTP/1.0 at most.
    pub(crate) authority: Option<NormalAuthority<'a>>,
    /// Its path.
    pub(crate) path: NormalPath<'a>,
    /// Its query, as it is.
    pub(crate) query: Option<&'a str>,
}

impl Lines {
    /// Takes the texts of a head, once its fields can be read in one way only.
    pub(crate) fn of(head: &Parts) -> Result<Self, BadRequest> {
        if head.method == Method::CONNECT {
            return Err(BadRequest::Connect);
        }
        let version = if head.version == Version::HTTP_2 { HttpVersion::Two } else { HttpVersion::One };
        check_fields(version, head.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())))?;
        let mut hosts = head.headers.get_all(HOST).iter();
        let host = hosts.next().cloned();
        if hosts.next().is_some() {
            return Err(NotNormal::Hosts.into());
        }
        Ok(Self {
            method: head.method.clone(),
            version: head.version,
            target: head.uri.path_and_query().cloned(),
            authority: head.uri.authority().cloned(),
            host,
        })
    }

    /// Returns what was asked for, as it came.
    pub(crate) fn asked(&self) -> (Method, Option<PathAndQuery>) {
        (self.method.clone(), self.target.clone())
    }

    /// Returns the host that was asked for, as it came.
    pub(crate) fn asked_host(&self) -> Option<String> {
        let named = self.authority.as_ref().map(Authority::as_str);
        named.or_else(|| self.host.as_ref().and_then(|host| host.to_str().ok())).map(str::to_owned)
    }

    /// Reads the normal form.
    pub(crate) fn normal(&self) -> Result<Normal<'_>, NotNormal> {
        check_method(self.method.as_str())?;
        let target = self.authority.as_ref().map(Authority::as_str);
        let authority = NormalAuthority::one_of(target, self.host.as_ref().map(HeaderValue::as_bytes))?;
        if authority.is_none() && self.version != Version::HTTP_10 {
            return Err(NotNormal::Host);
        }
        let target = self.target.as_ref().map_or("", PathAndQuery::as_str);
        let (path, query) = NormalPath::with_query(target)?;
        Ok(Normal { method: self.method.as_str(), authority, path, query })
    }

    /// Returns the target as it goes on: the very text that came, where that was normal.
    pub(crate) fn target(&self, normal: &Normal<'_>) -> Result<PathAndQuery, NotNormal> {
        if let Some(target) = self.target.as_ref().filter(|target| target.path() == normal.path.as_str()) {
            return Ok(target.clone());
        }
        let path = normal.path.as_str();
        let text = match normal.query {
            Some(query) => format!("{path}?{query}"),
            None => path.to_owned(),
        };
        PathAndQuery::try_from(text).map_err(|_| NotNormal::Target)
    }

    /// Returns whom the request names as it goes on: the very text that came, where that was normal.
    pub(crate) fn authority(&self, normal: &Normal<'_>) -> Result<Option<Authority>, NotNormal> {
        let Some(authority) = &normal.authority else { return Ok(None) };
        if let Some(target) = self.authority.as_ref().filter(|target| is_text_of(target.as_str(), authority)) {
            return Ok(Some(target.clone()));
        }
        Authority::try_from(authority.to_string()).map(Some).map_err(|_| NotNormal::Host)
    }

    /// Returns the same as the value of a Host field.
    pub(crate) fn host(&self, normal: &Normal<'_>) -> Result<Option<HeaderValue>, NotNormal> {
        let Some(authority) = &normal.authority else { return Ok(None) };
        let is_normal = |host: &&HeaderValue| host.to_str().is_ok_and(|text| is_text_of(text, authority));
        if let Some(host) = self.host.as_ref().filter(is_normal) {
            return Ok(Some(host.clone()));
        }
        HeaderValue::try_from(authority.to_string()).map(Some).map_err(|_| NotNormal::Host)
    }
}

/// Reports whether a text is the normal form's own, so that it need not be written anew.
fn is_text_of(text: &str, authority: &NormalAuthority<'_>) -> bool {
    let Some(rest) = text.strip_prefix(authority.host()) else { return false };
    match (rest.strip_prefix(':'), authority.port()) {
        (None, None) => rest.is_empty(),
        (Some(digits), Some(port)) => !digits.starts_with('0') && digits.parse() == Ok(port),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn lines(uri: &str, host: Option<&str>) -> Result<Lines, BadRequest> {
        let mut request = Request::builder().uri(uri);
        if let Some(host) = host {
            request = request.header(HOST, host);
        }
        Lines::of(&request.body(()).unwrap().into_parts().0)
    }

    /// Reads a request and returns what goes on of it.
    #[track_caller]
    fn check(uri: &str, host: Option<&str>, want: Result<(&str, &str), NotNormal>) {
        let lines = lines(uri, host).unwrap();
        let read = lines.normal().and_then(|normal| {
            let authority = lines.authority(&normal)?.unwrap();
            assert_eq!(lines.host(&normal)?.unwrap(), authority.as_str());
            Ok((lines.target(&normal)?.to_string(), authority.to_string()))
        });
        let read = read.as_ref().map(|(target, host)| (target.as_str(), host.as_str())).map_err(|error| *error);
        assert_eq!(read, want, "{uri} {host:?}");
    }

    #[test]
    fn h5_h7_what_goes_on_is_the_normal_form() {
        check("/a/b?c=d", Some("api"), Ok(("/a/b?c=d", "api")));
        check("/a/../b//c/%7Ed?x=%2e", Some("API.:080"), Ok(("/b/c/~d?x=%2e", "api:80")));
        check("http://Api/x", Some("api:80"), Ok(("/x", "api")));
        check("http://api/x", Some("admin"), Err(NotNormal::Hosts));
        check("/x", None, Err(NotNormal::Host));
        check("/x", Some("a@b"), Err(NotNormal::Host));
        check("/a%2fb", Some("api"), Err(NotNormal::EscapedSeparator));
        check("/a/..;/b", Some("api"), Err(NotNormal::DotParameters));
        check("*", Some("api"), Err(NotNormal::Target));
    }

    #[test]
    fn what_is_normal_goes_on_without_a_copy() {
        let lines = lines("http://api:8080/a/b?c", Some("api:8080")).unwrap();
        let normal = lines.normal().unwrap();
        let (target, authority) = (lines.target(&normal).unwrap(), lines.authority(&normal).unwrap().unwrap());
        assert_eq!(target.as_str().as_ptr(), lines.target.as_ref().unwrap().as_str().as_ptr());
        assert_eq!(authority.as_str().as_ptr(), lines.authority.as_ref().unwrap().as_str().as_ptr());
    }
}
