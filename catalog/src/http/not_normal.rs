//! Why a request has no normal form, and is refused before anything is decided.

/// Explains what about a request could be read in more than one way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotNormal {
    /// The target is no path: `*`, a whole URL, or what a gRPC client sent without its slash.
    #[error("the path does not start with `/`")]
    Target,
    /// A byte that no path has, such as a space or a backslash.
    #[error("the path has a character that paths do not have; escape it")]
    PathCharacter,
    /// The part behind `#`, which no client sends.
    #[error("the path has a fragment; leave it out")]
    Fragment,
    /// A `%` without two hexadecimal digits behind it.
    #[error("the path has a `%` without two hexadecimal digits behind it")]
    Escape,
    /// `%2F`, `%5C`, or an escaped control character: an application might take it for what it stands for.
    #[error("the path has an escaped slash, backslash or control character")]
    EscapedSeparator,
    /// `%25` with two hexadecimal digits behind it: escaped twice.
    #[error("the path is escaped twice")]
    DoublyEscaped,
    /// Escapes that are no UTF-8, such as overlong forms.
    #[error("the path's escapes are no UTF-8")]
    NotUtf8,
    /// `..;` and `.;`, which some applications take for `..` and `.`.
    #[error("the path has a dot segment with parameters")]
    DotParameters,
    /// The query has a byte that no query has.
    #[error("the query has a character that queries do not have; escape it")]
    Query,
    /// The method is no word of upper-case letters.
    #[error("the method is no word of upper-case letters")]
    Method,
    /// The host is missing, malformed, or has a user part.
    #[error("the host is malformed")]
    Host,
    /// Two hosts that differ, or more than one Host field.
    #[error("the request names more than one host")]
    Hosts,
    /// A field name with `_`, an upper-case letter over HTTP/2, or what no name has.
    #[error("a header's name has a character that is not passed on")]
    FieldName,
    /// A field value with a control character.
    #[error("a header's value has a control character")]
    FieldValue,
    /// More fields, or longer ones, than are read.
    #[error("the headers are too many or too long")]
    TooLarge,
    /// A length that is no number, stands twice, or stands beside chunks.
    #[error("the request's length can be read in more than one way")]
    Length,
    /// A transfer coding other than one `chunked`.
    #[error("the transfer encoding is not `chunked` alone")]
    TransferEncoding,
    /// `Connection` asks to drop a field that is not of the connection.
    #[error("`connection` names a header that is not of the connection")]
    Connection,
    /// A field of the connection over HTTP/2, which has none.
    #[error("a header of the connection stands in an HTTP/2 request")]
    ConnectionField,
    /// A trailer that would frame, route or authorize the message after the fact.
    #[error("a trailer has the name of a header that must stand before the body")]
    Trailer,
}

impl NotNormal {
    /// Returns the status code that answers such a request.
    #[must_use]
    pub fn status(self) -> u16 {
        match self {
            Self::TooLarge => 431,
            _ => 400,
        }
    }

    /// Returns the word that metrics and logs use.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Target | Self::PathCharacter | Self::Fragment | Self::Query => "malformed-target",
            Self::Escape | Self::EscapedSeparator | Self::DoublyEscaped | Self::NotUtf8 => "ambiguous-escape",
            Self::DotParameters => "dot-parameters",
            Self::Method => "malformed-method",
            Self::Host | Self::Hosts => "ambiguous-host",
            Self::FieldName | Self::FieldValue => "malformed-header",
            Self::TooLarge => "headers-too-large",
            Self::Length | Self::TransferEncoding => "ambiguous-length",
            Self::Connection | Self::ConnectionField => "connection-header",
            Self::Trailer => "forbidden-trailer",
        }
    }
}
